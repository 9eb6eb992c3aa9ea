"""Every layout opens to the same cases, and names what does not fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.datasets.dataset import Dataset, DatasetError, DatasetOptions, open_dataset
from situs.errors import ConfigError, ScanRefused

SHAPE = (9, 8, 7)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def image(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    return save(path, np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def label(path: Path, classes: int = 3, affine: np.ndarray = AFFINE) -> Path:
    array = np.random.default_rng(1).integers(0, classes, SHAPE).astype(np.uint8)
    array[0, 0, :classes] = np.arange(classes)
    return save(path, array, affine)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def folders(root: Path, cases: int = 3) -> Path:
    for n in range(cases):
        image(root / "images" / f"case{n}.nii.gz", n)
        label(root / "labels" / f"case{n}.nii.gz")
    return root


def decathlon(root: Path) -> Path:
    for n in range(2):
        image(root / "imagesTr" / f"hippo_{n:04d}.nii.gz", n)
        label(root / "labelsTr" / f"hippo_{n:04d}.nii.gz")
    image(root / "imagesTs" / "hippo_0009.nii.gz", 9)
    pairs = [
        {"image": f"./imagesTr/hippo_{n:04d}.nii.gz", "label": f"./labelsTr/hippo_{n:04d}.nii.gz"}
        for n in range(2)
    ]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    write_json(
        root / "dataset.json",
        {
            "modality": {"0": "MRI"},
            "labels": labels,
            "training": pairs,
            "test": ["./imagesTs/hippo_0009.nii.gz"],
        },
    )
    return root


def nnunet(root: Path, version: int = 2) -> Path:
    for n in range(2):
        for channel in range(2):
            image(root / "imagesTr" / f"p{n}_{channel:04d}.nii.gz", 10 * n + channel)
        label(root / "labelsTr" / f"p{n}.nii.gz")
    numbers = {"background": 0, "liver": 1, "tumour": 2}
    if version == 2:
        content: dict[str, object] = {"channel_names": {"0": "CT", "1": "CT"}, "labels": numbers}
        content["file_ending"] = ".nii.gz"
    else:
        content = {"modality": {"0": "CT", "1": "CT"}}
        content["labels"] = {str(v): k for k, v in numbers.items()}
        content["training"] = [
            {"image": f"./imagesTr/p{n}.nii.gz", "label": f"./labelsTr/p{n}.nii.gz"}
            for n in range(2)
        ]
    write_json(root / "dataset.json", content)
    return root


def bids(root: Path) -> Path:
    write_json(root / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0"})
    for subject in ("01", "02"):
        for session in ("a", "b"):
            stem = f"sub-{subject}_ses-{session}"
            folder = Path(f"sub-{subject}") / f"ses-{session}" / "anat"
            image(root / folder / f"{stem}_T1w.nii.gz", int(subject))
            image(root / folder / f"{stem}_FLAIR.nii.gz", int(subject) + 9)
            label(root / "derivatives" / "manual" / folder / f"{stem}_desc-manual_dseg.nii.gz")
    (root / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n1\tcore\n2\tedema\n")
    return root


def medmnist(path: Path, columns: int = 1) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 6, 6, 6)).astype(np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (count, columns))
    arrays["train_labels"][0], arrays["train_labels"][1] = 0, 1
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("make", [folders, decathlon, nnunet, bids])
def test_layouts_are_recognised_and_read(tmp_path: Path, make) -> None:
    dataset = open_dataset(make(tmp_path))
    assert dataset.layout == make.__name__
    assert dataset.task == "segmentation"
    assert sorted(dataset.classes) == [0, 1, 2]
    kept, refused = dataset.check()
    assert kept == dataset
    assert not refused
    scan, mask = dataset.read(dataset.labelled[0])
    assert mask is not None
    assert (scan.shape, mask.shape, mask.array.dtype) == (SHAPE, SHAPE, np.int16)
    np.testing.assert_array_equal(scan.affine, mask.affine)
    assert open_dataset(tmp_path, layout=make.__name__) == dataset


def test_decathlon(tmp_path: Path) -> None:
    dataset = open_dataset(decathlon(tmp_path) / "dataset.json")
    assert dataset.classes == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert [(c.name, c.split) for c in dataset.cases] == [
        ("hippo_0000", "train"),
        ("hippo_0001", "train"),
        ("hippo_0009", "test"),
    ]
    assert [c.name for c in dataset.labelled] == ["hippo_0000", "hippo_0001"]
    assert len(dataset.split("test")) == 1
    assert dataset.read(dataset.cases[0])[0].modality == "MR"
    assert dataset.read(dataset.cases[2])[1] is None


def test_decathlon_loses_no_label(tmp_path: Path) -> None:
    description = json.loads((decathlon(tmp_path) / "dataset.json").read_text())
    whole = open_dataset(tmp_path)
    first = description["training"][0]
    path = first.pop("label")
    for part in ("training", "validation"):
        write_json(tmp_path / "dataset.json", {**description, part: [first]})
        with pytest.raises(DatasetError, match=r"without a 'label': hippo_0000.*allow_unlabelled"):
            open_dataset(tmp_path)
    write_json(tmp_path / "dataset.json", description)
    assert len(open_dataset(tmp_path, allow_unlabelled=True).labelled) == 1
    first["label"] = [path]
    write_json(tmp_path / "dataset.json", description)
    assert open_dataset(tmp_path) == whole
    for other in (1, [path, path], {"label": path}):
        first["label"] = other
        write_json(tmp_path / "dataset.json", description)
        with pytest.raises(DatasetError, match=r"'label' of hippo_0000 must be the path of one"):
            open_dataset(tmp_path, allow_unlabelled=True)


def test_decathlon_channels_in_one_file(tmp_path: Path) -> None:
    decathlon(tmp_path)
    image(tmp_path / "imagesTr" / "hippo_0000.nii.gz", shape=(*SHAPE, 4))
    dataset = open_dataset(tmp_path)
    assert dataset.read(dataset.cases[0])[0].array.shape == (4, *SHAPE)


@pytest.mark.parametrize(("make", "key"), [(decathlon, "modality"), (nnunet, "channel_names")])
def test_channels_named_in_any_form(tmp_path: Path, make, key: str) -> None:
    make(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    count = len(description[key])
    for value in (dict.fromkeys(map(str, range(count)), "CT"), ["CT"] * count, "CT"):
        if value == "CT" and count > 1:
            continue
        write_json(tmp_path / "dataset.json", {**description, key: value})
        dataset = open_dataset(tmp_path)
        assert dataset.read(dataset.cases[0])[0].modality == "CT"
    for value in ({"CT": 0}, [["CT"]], 1):
        write_json(tmp_path / "dataset.json", {**description, key: value})
        with pytest.raises(DatasetError, match=r"'channel_names' must name each channel by its"):
            open_dataset(tmp_path)


def test_modality_of_each_channel(tmp_path: Path) -> None:
    nnunet(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    write_json(tmp_path / "dataset.json", {**description, "channel_names": ["CT", "PET"]})
    dataset = open_dataset(tmp_path)
    assert dataset.modalities == ("CT", "PT")
    assert dataset.read(dataset.cases[0])[0].channel_modalities == ("CT", "PT")
    write_json(tmp_path / "dataset.json", {**description, "channel_names": ["CT", "mask"]})
    dataset = open_dataset(tmp_path)
    assert dataset.read(dataset.cases[0])[0].channel_modalities == ("CT", "unknown")
    # All in one file; modalities that differ must be as many as its channels.
    decathlon(tmp_path / "one")
    description = json.loads((tmp_path / "one" / "dataset.json").read_text())
    write_json(tmp_path / "one" / "dataset.json", {**description, "modality": ["PET", "CT"]})
    image(tmp_path / "one" / "imagesTr" / "hippo_0000.nii.gz", shape=(*SHAPE, 2))
    dataset = open_dataset(tmp_path / "one")
    assert dataset.read(dataset.cases[0])[0].channel_modalities == ("PT", "CT")
    with pytest.raises(ScanRefused, match=r"has 1 channel\(s\), the data set names 2"):
        dataset.read(dataset.cases[1])


def test_channels_listed_as_files(tmp_path: Path) -> None:
    # As MONAI lists them; the names alone would pass for nnU-Net's.
    nnunet(tmp_path, 1)
    description = json.loads((tmp_path / "dataset.json").read_text())
    files = [f"imagesTr/p0_{channel:04d}.nii.gz" for channel in range(2)]
    case = {"image": files, "label": "labelsTr/p0.nii.gz"}
    write_json(tmp_path / "dataset.json", {**description, "training": [case]})
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "decathlon"
    assert [path.name for path in dataset.cases[0].image] == ["p0_0000.nii.gz", "p0_0001.nii.gz"]
    assert dataset.read(dataset.cases[0])[0].array.shape == (2, *SHAPE)
    for wrong in ([], [files], None):
        case["image"] = wrong
        write_json(tmp_path / "dataset.json", {**description, "training": [case]})
        with pytest.raises(DatasetError, match="or a list with one for each channel"):
            open_dataset(tmp_path, layout="decathlon")


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_channels_are_stacked(tmp_path: Path, version: int) -> None:
    dataset = open_dataset(nnunet(tmp_path, version))
    assert dataset.layout == "nnunet"
    assert dataset.classes == {0: "background", 1: "liver", 2: "tumour"}
    scan, _ = dataset.read(dataset.cases[1])
    second = nib.load(tmp_path / "imagesTr" / "p1_0001.nii.gz").get_fdata()
    assert scan.array.shape == (2, *SHAPE)
    np.testing.assert_allclose(scan.array[1], second)
    assert scan.modality == "CT"


def test_bids_groups_by_subject(tmp_path: Path) -> None:
    dataset = open_dataset(bids(tmp_path))
    assert [c.group for c in dataset.cases] == ["sub-01", "sub-01", "sub-02", "sub-02"]
    assert dataset.classes == {0: "background", 1: "core", 2: "edema"}
    assert open_dataset(tmp_path, suffix="FLAIR").cases[0].name == "sub-01_ses-a_FLAIR"
    with pytest.raises(DatasetError, match="FLAIR, T1w"):
        open_dataset(tmp_path, suffix="T2w")


def test_bids_label_among_several(tmp_path: Path) -> None:
    whole = open_dataset(bids(tmp_path))
    lesions = []
    for case in whole.cases:
        assert case.label is not None
        folder = (
            tmp_path
            / "derivatives"
            / "prep"
            / case.label.parent.relative_to(tmp_path / "derivatives" / "manual")
        )
        stem = case.name.removesuffix("_T1w")
        label(folder / f"{stem}_desc-brain_mask.nii.gz", classes=2)
        lesions.append(label(folder / f"{stem}_label-lesion_mask.nii.gz", classes=2))
    # The brain's mask is nobody's label unless it is asked for, the lesions' may be.
    with pytest.raises(
        DatasetError, match=r"dataset\.label to one of desc-manual_dseg, label-lesion_mask$"
    ):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, label="dseg") == whole
    chosen = open_dataset(tmp_path, label="label-lesion")
    assert [case.label for case in chosen.cases] == lesions
    assert chosen.classes == {0: "background", 1: "1"}
    for file in lesions:
        file.unlink()
    assert open_dataset(tmp_path) == whole
    brain = open_dataset(tmp_path, label="desc-brain_mask")
    assert all("desc-brain" in str(case.label) for case in brain.cases)
    with pytest.raises(DatasetError, match="'les' in its name; found desc-brain_mask, desc-manual"):
        open_dataset(tmp_path, label="les")
    for file in tmp_path.rglob("*dseg.nii.gz"):
        file.unlink()
    with pytest.raises(DatasetError, match=r"images without a label below derivatives/"):
        open_dataset(tmp_path)


def test_bids_label_called_exactly_as_asked(tmp_path: Path) -> None:
    # As fMRIPrep leaves them, each with its own table.
    write_json(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0"})
    image(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    prep = tmp_path / "derivatives" / "fmriprep"
    for kind, name in (("", "tissue"), ("desc-aseg_", "nucleus")):
        label(prep / "sub-1" / "anat" / f"sub-1_{kind}dseg.nii.gz")
        table = f"index\tname\n1\t{name}\n2\tother {name}\n"
        (prep / f"{kind}dseg.tsv").write_text(table)
    tissue = open_dataset(tmp_path, label="dseg")
    assert tissue.cases[0].label == prep / "sub-1" / "anat" / "sub-1_dseg.nii.gz"
    assert tissue.classes == {0: "background", 1: "tissue", 2: "other tissue"}
    nuclei = open_dataset(tmp_path, label="desc-aseg")
    assert nuclei.classes == {0: "background", 1: "nucleus", 2: "other nucleus"}


def test_medmnist(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "organ.npz")
    dataset = open_dataset(path)
    assert (dataset.task, dataset.classes, len(dataset)) == ("classification", {0: "0", 1: "1"}, 9)
    assert [len(dataset.split(s)) for s in ("train", "val", "test")] == [4, 2, 3]
    case = dataset.split("val").cases[1]
    with np.load(path) as arrays:
        np.testing.assert_array_equal(dataset.read(case)[0].array[0], arrays["val_images"][1])
        assert case.target == arrays["val_labels"][1, 0]
    several = open_dataset(medmnist(tmp_path / "many.npz", columns=5))
    assert several.multilabel
    assert len(several.cases[0].target) == 5  # type: ignore[arg-type]


def test_pictures_are_no_volumes(tmp_path: Path) -> None:
    pictures = {"train_images": np.zeros((4, 28, 28, 3)), "train_labels": np.zeros((4, 1))}
    np.savez(tmp_path / "path.npz", **pictures)
    with pytest.raises(DatasetError, match=r"got \(4, 28, 28, 3\)"):
        open_dataset(tmp_path / "path.npz")


def test_pickles_stay_closed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ScanRefused, match="Python objects"):
        open_dataset(tmp_path / "a.npz")


def test_csv_of_classes(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / "scans" / f"s{n}.nii.gz", n)
    rows = ["image,target,patient,split"]
    rows += [f"scans/s{n}.nii.gz,{'sick' if n else 'well'},MRN-{n // 2},train" for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    dataset = open_dataset(tmp_path / "t.csv")
    assert dataset.classes == {0: "sick", 1: "well"}
    assert [c.target for c in dataset.cases] == [1, 0, 0]
    groups = [c.group for c in dataset.cases]
    assert groups[0] == groups[1] != groups[2]
    assert "MRN" not in repr(dataset) + repr(dataset.cases)
    assert open_dataset(tmp_path / "t.csv", classes={0: "well", 1: "sick"}).cases[0].target == 0
    with pytest.raises(DatasetError, match="unknown class 'sick'"):
        open_dataset(tmp_path / "t.csv", classes={0: "well", 1: "ill"})


def test_csv_of_findings_and_of_label_maps(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz")
    label(tmp_path / "a_seg.nii.gz")
    (tmp_path / "f.csv").write_text("image,nodule,effusion\na.nii.gz,1,0\n")
    dataset = open_dataset(tmp_path / "f.csv")
    assert (dataset.multilabel, dataset.cases[0].target) == (True, (1, 0))
    assert dataset.classes == {0: "nodule", 1: "effusion"}
    (tmp_path / "f.csv").write_text("image,nodule\na.nii.gz,maybe\n")
    with pytest.raises(DatasetError, match="must be 0 or 1, got 'maybe'"):
        open_dataset(tmp_path / "f.csv")
    (tmp_path / "s.csv").write_text("image,label\na.nii.gz,a_seg.nii.gz\n")
    dataset = open_dataset(tmp_path / "s.csv")
    assert (dataset.task, sorted(dataset.classes)) == ("segmentation", [0, 1, 2])


def test_folder_pairs_by_name(tmp_path: Path) -> None:
    image(tmp_path / "images" / "p1_image.nii.gz")
    label(tmp_path / "labels" / "p1_seg.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].name == "p1"
    image(tmp_path / "images" / "p2_b.nii.gz")
    label(tmp_path / "labels" / "p2_b.nii.gz")
    dataset = open_dataset(tmp_path, patient=r"^(p\d+)")
    assert [c.group for c in dataset.cases] == ["p1", "p2"]


def test_the_patient_must_be_found_in_every_name(tmp_path: Path) -> None:
    folders(tmp_path)
    options = DatasetOptions(patient=r"case(\d)|scan(\d)")
    assert [c.group for c in open_dataset(tmp_path, options).cases] == ["0", "1", "2"]
    for pattern in ("p[0-9]+", "(p[0-9])?"):
        with pytest.raises(DatasetError, match=r"dataset\.patient.*: .* is not found in 'case0'"):
            open_dataset(tmp_path, options, patient=pattern)
    with pytest.raises(ConfigError, match=r"'patient' is no regular expression"):
        open_dataset(tmp_path, patient="p[")
    with pytest.raises(ConfigError, match=r"unknown key 'patients'.*'patient'"):
        open_dataset(tmp_path, patients="p")
    with pytest.raises(DatasetError, match=r"dataset\.suffix is for BIDS"):
        open_dataset(tmp_path, suffix="T1w")
    with pytest.raises(DatasetError, match=r"dataset\.label is for BIDS"):
        open_dataset(tmp_path, label="dseg")


@pytest.mark.parametrize("make", [folders, nnunet, bids])
def test_few_labels_among_many_images(tmp_path: Path, make) -> None:
    whole = open_dataset(make(tmp_path))
    labels = [case.label for case in whole.labelled if case.label is not None]
    labels[0].unlink()
    with pytest.raises(DatasetError, match=r"1 images without.*dataset\.allow_unlabelled=true"):
        open_dataset(tmp_path)
    semi = open_dataset(tmp_path, DatasetOptions(allow_unlabelled=True))
    assert [case.image for case in semi.cases] == [case.image for case in whole.cases]
    assert len(semi.labelled) == len(labels) - 1


def test_few_labelled_rows(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz")
    label(tmp_path / "a_seg.nii.gz")
    image(tmp_path / "b.nii.gz", 1)
    tables = {
        "target": "image,target\na.nii.gz,sick\nb.nii.gz,\n",
        "findings": "image,nodule,effusion\na.nii.gz,1,0\nb.nii.gz,,\n",
        "maps": "image,label\na.nii.gz,a_seg.nii.gz\nb.nii.gz,\n",
    }
    for name, table in tables.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(table)
        with pytest.raises(DatasetError, match=r"b\.nii\.gz.*dataset\.allow_unlabelled=true"):
            open_dataset(path)
        dataset = open_dataset(path, allow_unlabelled=True)
        assert [case.name for case in dataset.cases] == ["a", "b"]
        assert [case.name for case in dataset.labelled] == ["a"]
    (tmp_path / "findings.csv").write_text("image,nodule,effusion\na.nii.gz,1,\n")
    with pytest.raises(DatasetError, match="column 'effusion' must be 0 or 1, got ''"):
        open_dataset(tmp_path / "findings.csv", allow_unlabelled=True)


def table_of(folder: Path, targets: list[str], column: str = "target") -> Path:
    rows = [f"s{n}.nii.gz,{target}" for n, target in enumerate(targets)]
    for n in range(len(targets)):
        image(folder / f"s{n}.nii.gz", n)
    (folder / "t.csv").write_text("\n".join([f"image,{column}", *rows]))
    return folder / "t.csv"


def test_targets_that_are_missing_or_no_class(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["1.0", "0", "nan", "NA", "None", "", "1"])
    with pytest.raises(DatasetError, match=r"4 rows without a class .*allow_unlabelled=true"):
        open_dataset(table)
    dataset = open_dataset(table, allow_unlabelled=True)
    assert dataset.classes == {0: "0", 1: "1"}
    assert [case.target for case in dataset.cases] == [1, 0, None, None, None, None, 1]
    grades = table_of(tmp_path, ["None", "mild", "mild"])
    assert [case.target for case in open_dataset(grades, classes={0: "None", 1: "mild"}).cases] == [
        0,
        1,
        1,
    ]
    assert len(open_dataset(table_of(tmp_path, ["none", "mild"])).labelled) == 2
    for quantity in ("63.2", "1e-3", "inf"):
        with pytest.raises(DatasetError, match=f"target '{quantity}' is no class but a quantity"):
            open_dataset(table_of(tmp_path, ["1", quantity, "55"]))
    findings = table_of(tmp_path, ["1,0", "nan,NaN"], column="nodule,effusion")
    assert len(open_dataset(findings, allow_unlabelled=True).labelled) == 1


def test_declared_classes_of_findings(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["1,0,7", "0,0,8"], column="nodule,effusion,age")
    chosen = open_dataset(table, classes={1: "nodule", 0: "effusion"})
    assert (chosen.classes, chosen.cases[0].target) == ({0: "effusion", 1: "nodule"}, (0, 1))
    table = table_of(tmp_path, ["1,0", "0,0"], column="x,y")
    renamed = open_dataset(table, classes={0: "edema", 1: "mass"})
    assert (renamed.classes, renamed.cases[0].target) == ({0: "edema", 1: "mass"}, (1, 0))
    for wrong in ({0: "edema"}, {0: "x", 1: "mass"}):
        with pytest.raises(DatasetError, match=r"dataset\.classes names .*columns.*\['x', 'y'\]"):
            open_dataset(table, classes=wrong)
    with pytest.raises(DatasetError, match=r"dataset\.classes has 2 names, the labels 5 columns"):
        open_dataset(medmnist(tmp_path / "m.npz", columns=5), classes={0: "a", 1: "b"})


def test_two_files_that_would_be_one_case(tmp_path: Path) -> None:
    images = folders(tmp_path / "folders") / "images"
    for name in ("p1_image", "p1_scan"):
        image(images / f"{name}.nii.gz")
    with pytest.raises(DatasetError, match=r"p1_image\.nii\.gz and p1_scan\.nii\.gz would be the"):
        open_dataset(tmp_path / "folders")
    image(folders(tmp_path / "formats") / "images" / "case0.nii")
    with pytest.raises(DatasetError, match=r"case0\.nii and case0\.nii\.gz would be the same"):
        open_dataset(tmp_path / "formats")
    anat = bids(tmp_path / "bids") / "sub-01" / "ses-a" / "anat"
    image(anat / "sub-01_ses-a_space-MNI_T1w.nii.gz")
    with pytest.raises(DatasetError, match=r"T1w.nii.gz and .*space-MNI_T1w.nii.gz would be the"):
        open_dataset(tmp_path / "bids")
    (tmp_path / "t.csv").write_text("image,target\nx/ct.nii.gz,a\ny/ct.nii.gz,b\n")
    for folder in "xy":
        image(tmp_path / folder / "ct.nii.gz")
    with pytest.raises(DatasetError, match=r"named 'ct' \(.*x/ct.nii.gz and .*column 'name'"):
        open_dataset(tmp_path / "t.csv")


def test_folders_keep_their_whole_names(tmp_path: Path) -> None:
    rows = ["image,target"]
    for number in (1, 2):
        (tmp_path / f"1.2.840.{number}").mkdir()
        rows.append(f"1.2.840.{number},{number}")
    (tmp_path / "1.2.840.3").touch()  # a DICOM file without suffix
    (tmp_path / "t.csv").write_text("\n".join([*rows, "1.2.840.3,1"]))
    names = [case.name for case in open_dataset(tmp_path / "t.csv").cases]
    assert names == ["1.2.840.1", "1.2.840.2", "1.2.840.3"]


def test_what_nnunet_ignores_is_no_class(tmp_path: Path) -> None:
    description = json.loads((nnunet(tmp_path) / "dataset.json").read_text())
    description["labels"]["ignore"] = description["labels"].pop("tumour")
    write_json(tmp_path / "dataset.json", description)
    with pytest.raises(DatasetError, match="labelled 'ignore'; relabel them, or set dataset"):
        open_dataset(tmp_path)
    named = {0: "background", 1: "liver", 2: "unsure"}
    assert open_dataset(tmp_path, classes=named).classes == named


def test_training_cases_listed_by_name_alone(tmp_path: Path) -> None:
    description = json.loads((nnunet(tmp_path, 1) / "dataset.json").read_text())
    description["training"] = [item["image"] for item in description["training"]]
    write_json(tmp_path / "dataset.json", description)
    assert open_dataset(tmp_path).layout == "nnunet"
    description["labels"] = ["background", "liver"]
    write_json(tmp_path / "dataset.json", description)
    with pytest.raises(DatasetError, match="'labels' must name each class by its number"):
        open_dataset(tmp_path)


def refused_case(dataset: Dataset, reason: str, match: str) -> None:
    kept, refused = dataset.check()
    assert [error.reason for error in refused] == [reason]
    assert re.search(match, str(refused[0]))
    assert len(kept) == len(dataset) - 1


def test_label_of_another_geometry(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = (0, 0, 1.0)
    label(folders(tmp_path) / "labels" / "case1.nii.gz", affine=moved)
    refused_case(open_dataset(tmp_path), "label-geometry", r"case1.nii.gz: .* 1.0 voxels")
    save(tmp_path / "labels" / "case1.nii.gz", np.ones((9, 8, 6), np.uint8))
    refused_case(open_dataset(tmp_path), "label-geometry", r"\(9, 8, 6\), the image's \(9, 8, 7\)")
    # What float32 headers leave of an affine is no other geometry.
    label(tmp_path / "labels" / "case1.nii.gz", affine=AFFINE * (1 + 1e-6))
    assert not open_dataset(tmp_path).check()[1]


def test_unknown_classes(tmp_path: Path) -> None:
    label(decathlon(tmp_path) / "labelsTr" / "hippo_0001.nii.gz", classes=5)
    refused_case(open_dataset(tmp_path), "unknown-class", r"holds classes \[3, 4\]; known: 0, 1, 2")


def test_missing_pairs(tmp_path: Path) -> None:
    (folders(tmp_path / "a") / "labels" / "case1.nii.gz").unlink()
    with pytest.raises(DatasetError, match="1 images without a label: case1"):
        open_dataset(tmp_path / "a")
    assert len(open_dataset(tmp_path / "a", allow_unlabelled=True).labelled) == 2
    (folders(tmp_path / "b") / "images" / "case1.nii.gz").unlink()
    with pytest.raises(DatasetError, match="1 labels without an image: case1"):
        open_dataset(tmp_path / "b")
    (nnunet(tmp_path / "c") / "imagesTr" / "p1_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="1 cases lack a channel: p1"):
        open_dataset(tmp_path / "c")
    (decathlon(tmp_path / "d") / "imagesTr" / "hippo_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="absent: hippo_0001"):
        open_dataset(tmp_path / "d")
    next(iter((bids(tmp_path / "e") / "derivatives").rglob("sub-02*b*dseg.nii.gz"))).unlink()
    with pytest.raises(
        DatasetError, match=r"without a label below derivatives/ .*: sub-02_ses-b_T1w"
    ):
        open_dataset(tmp_path / "e")


def test_paths_cannot_lead_out(tmp_path: Path) -> None:
    image(tmp_path / "secret.nii.gz")
    write_json(
        tmp_path / "set" / "dataset.json",
        {"labels": {"0": "background"}, "training": [{"image": "../secret.nii.gz"}]},
    )
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        open_dataset(tmp_path / "set", layout="decathlon")


def test_absolute_paths_in_a_table_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = image(tmp_path / "set" / "a.nii.gz")
    outside = image(tmp_path / "b.nii.gz")
    table = tmp_path / "set" / "t.csv"
    monkeypatch.chdir(tmp_path / "set")
    for named in ("t.csv", "../set/t.csv", table):
        table.write_text(f"image,target\n{scan},sick\n")
        assert open_dataset(named).cases[0].image == (scan,)
        for leads_out in (outside, "../b.nii.gz", tmp_path / "set-b" / "a.nii.gz"):
            table.write_text(f"image,target\n{leads_out},sick\n")
            with pytest.raises(DatasetError, match="leads out of the dataset"):
                open_dataset(named)


def test_labels_of_background_alone(tmp_path: Path) -> None:
    for file in (folders(tmp_path) / "labels").iterdir():
        save(file, np.zeros(SHAPE, np.uint8))
    with pytest.raises(DatasetError, match="no foreground class in any label"):
        open_dataset(tmp_path)
    label(tmp_path / "labels" / "case1.nii.gz", classes=2)
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, len(dataset.labelled)) == ({0: "background", 1: "1"}, 3)


def test_a_second_collection_is_only_tested_on(tmp_path: Path) -> None:
    own, held = folders(tmp_path / "own"), folders(tmp_path / "held", 2)
    for folder in ("images", "labels"):
        for file in (held / folder).iterdir():
            file.rename(file.with_name(f"new{file.name}"))
    dataset = open_dataset(own, test=held)
    assert {c.name: c.split for c in dataset.cases} == {
        **{f"case{n}": "" for n in range(3)},
        **{f"newcase{n}": "test" for n in range(2)},
    }
    with pytest.raises(DatasetError, match="two cases are named"):
        open_dataset(own, test=own)
    label(held / "labels" / "newcase0.nii.gz", classes=5)
    with pytest.raises(DatasetError, match="labelled alike"):
        open_dataset(own, test=held)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none of the layouts"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="dataset not found"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"unknown layout 'nnU-Net' \(did you mean 'nnunet'"):
        open_dataset(tmp_path, layout="nnU-Net")


def test_real_pairs(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "hippocampus", classes={0: "background", 1: "a", 2: "p"})
    assert len(dataset) == 200
    scan, mask = dataset.read(dataset.cases[17])
    assert mask is not None
    assert scan.shape == mask.shape
    assert set(np.unique(mask.array)) == {0, 1, 2}
