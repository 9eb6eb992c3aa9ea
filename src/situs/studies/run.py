"""A study from its configuration to its tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from situs.config import dump_yaml, load_config
from situs.datasets.dataset import Dataset, open_dataset
from situs.errors import ConfigError, setting
from situs.files import check_writable, read_json, write_file, write_json
from situs.locks import holding
from situs.scans.aliases import Names
from situs.studies.archives import image_files
from situs.studies.cases import CaseFacts, contents, inspect
from situs.studies.checks import check_settings
from situs.studies.config import DECIDES, StudyConfig
from situs.studies.graph import JobGraph, StudyCases
from situs.studies.jobs import JobFolders
from situs.studies.results import StudyResult, collect
from situs.studies.scheduler import WORKER, Event, Scheduler
from situs.studies.splits import split_cases, without_leaks
from situs.studies.unlabelled import read_unlabelled, unknown_to_test
from situs.tables import cell


def carry_out(
    config: Mapping[str, Any] | str | Path | StudyConfig,
    *,
    overrides: Sequence[str] = (),
    report: Callable[[Event, int, int], None] | None = None,
    only_report: bool = False,
    join: bool = False,
    worker: Sequence[str] = WORKER,
    names: bool = False,
) -> tuple[StudyResult, JobGraph]:
    """Carry out what is missing of a study, and compare what is there; draw nothing.

    :func:`situs.report.study.study` also writes the page.

    Args:
        config: A mapping, the path of a YAML file, or a :class:`StudyConfig`.
        overrides: ``key.path=value`` strings.
        report: Called with each event, the number of finished jobs and of all jobs.
        only_report: Run nothing; compare what has been finished so far.
        join: Work beside other processes on the same study, here or on other machines that see
            the folder; each job is carried out by one of them, and taken over where that one dies.
        worker: Command line of a worker process.
        names: Write names of cases into the tables; by default short ids, which ``names.csv``
            tells apart.

    Returns:
        The tables, also written to ``out`` as CSV, and the graph that they come from.

    Raises:
        ConfigError: If the configuration, or that of any of its runs, cannot be used.
        LeakError: If test scans would be known from training.
        RunError: If another process is at work in ``out`` and ``join`` was not said.
    """
    study = load_config(StudyConfig, config, overrides)
    check_settings(study)
    _check_there(study)
    check_writable(study.out, folder=True)
    study.out.mkdir(parents=True, exist_ok=True)
    graph, folders = open_graph(study)
    if only_report:
        named_after = _named_after(study, graph, folders, keep=False)
    else:
        with nullcontext() if join else holding(study.out, "situs study"):
            if join:
                _check_joined(study)
            write_file(study.out / "study.yaml", dump_yaml(study))
            named_after = _named_after(study, graph, folders, keep=True)
            scheduler = Scheduler(folders, processes(study), study.threads, worker, _gpus())
            total = graph.expected()

            def on_event(event: Event) -> None:
                if report is not None:
                    done = sum(folders.result(job) is not None for job in graph.jobs())
                    report(event, done, total)

            scheduler.run(graph.jobs, on_event)
    result = collect(graph, folders, named_after)
    _write_tables(result, graph, Names(shown=names))
    return result, graph


def _named_after(study: StudyConfig, graph: JobGraph, folders: JobFolders, keep: bool) -> int:
    """How many results were there when what the study decides was named as it is now.

    Args:
        study: Another metric, or other settings of what is compared, name another comparison.
        graph: Of the study.
        folders: Results of other settings were seen as well.
        keep: Write it down; who only reports names nothing.
    """
    if not study.decides:
        return 0
    file, named = study.out / DECIDES, _named(study, graph)
    kept: dict[str, Any] = {}
    if file.is_file():
        kept = read_json(file, "Delete it: what the study decides then counts as named now")
    # Files of before had no identities; there the names must be the same.
    known = "identities" if "identities" in kept else "decides"
    asked = {known: None, "metric": named["metric"]} | kept
    same = all(asked[key] == named[key] for key in (known, "metric"))
    after = kept.get("after") if same else None
    if not isinstance(after, int):
        after = folders.finished("finetune")
    if keep:
        write_json(file, {**named, "after": after})
    return after


def _named(study: StudyConfig, graph: JobGraph) -> dict[str, Any]:
    """What a study decides: the comparisons, by which score, and what decides their results."""
    arms = {arm.title: arm for arm in study.arms}
    compared = [(arms[one.arm], study.compared_in(one), one.labels) for one in study.decides]
    return {
        "decides": [one.model_dump(mode="json") for one in study.decides],
        "metric": study.score.column,
        "identities": [
            [graph.identity(arm, labels) for arm in (one, other) if arm is not None]
            for one, other, labels in compared
        ],
    }


def _check_joined(study: StudyConfig) -> None:
    """Refuse to help with a study that is another one."""
    file = study.out / "study.yaml"
    if not file.is_file():
        return
    free = {"out", "processes", "threads"}
    there = load_config(StudyConfig, file).model_dump(mode="json", exclude=free)
    asked = study.model_dump(mode="json", exclude=free)
    if differing := [key for key in asked if asked[key] != there[key]]:
        raise ConfigError(
            f"{study.out} holds a study with other settings ({', '.join(differing)}); join it "
            f"with its own, {file}"
        )


def describe(
    config: Mapping[str, Any] | str | Path | StudyConfig, *, overrides: Sequence[str] = ()
) -> tuple[JobGraph, JobFolders]:
    """The graph of a study without running anything; every setting is checked."""
    study = load_config(StudyConfig, config, overrides)
    check_settings(study)
    _check_there(study)
    check_writable(study.out, folder=True)
    study.out.mkdir(parents=True, exist_ok=True)
    return open_graph(study)


def open_graph(study: StudyConfig) -> tuple[JobGraph, JobFolders]:
    """Read the data, split it, and lay out the jobs.

    Raises:
        ConfigError: If the data do not fit what is asked.
        LeakError: For near-duplicates that are not one patient.
    """
    dataset = open_dataset(study.data, study.dataset)
    if dataset.task != study.task:
        raise ConfigError(f"{study.data} has labels for {dataset.task}, not for {study.task}")
    facts = inspect(dataset, study.out / "cases.json")
    facts = without_leaks(facts, study.duplicate_correlation, study.near_duplicates)
    folders = JobFolders(study.out / "jobs")
    further = [_graph_of(study, dataset, facts, folders, n) for n in range(1, study.folds)]
    return _graph_of(study, dataset, facts, folders, 0, further), folders


def _graph_of(
    study: StudyConfig,
    dataset: Dataset,
    facts: Sequence[CaseFacts],
    folders: JobFolders,
    fold: int,
    further: Sequence[JobGraph] = (),
) -> JobGraph:
    """The jobs of one fold, with those of further ones."""
    cases = _study_cases(study, dataset, facts, fold)
    _check_classes(study, cases)
    graph = JobGraph(study, cases, folders.result, folders.folder, fold, further)
    for labels in {max(study.labels), *study.tune.labels}:
        graph.training(labels, study.seeds[0])  # says now if there are too few cases
    return graph


def _check_classes(study: StudyConfig, cases: StudyCases) -> None:
    """Refuse to score cases of one class, where who always says that class would be right."""
    if study.task != "classification":
        return
    scored = {"test": cases.split.test}
    if len(study.tune.lr) > 1:
        scored["validation"] = cases.split.validation
    strata = {fact.name: fact.stratum for fact in cases.facts}
    for part, names in scored.items():
        if len({strata[name] for name in names}) == 1:
            raise ConfigError(
                f"the {len(names)} {part} cases are all of one class, so nothing can be told from "
                f"them; choose others with {setting(part)} or {setting('split_seed')}"
            )


def _check_there(study: StudyConfig) -> None:
    """Refuse data that are elsewhere, as those of the examples are at first."""
    if not study.data.exists():
        raise ConfigError(
            f"data is not there: {study.data}. Say where it lies with {setting('data')}=PATH: a "
            "folder with images/NAME.nii.gz and labels/NAME.nii.gz, or any other layout that "
            "'situs finetune' reads. Where the data of an example come from stands at its top"
        )


def processes(study: StudyConfig) -> int:
    """Jobs at a time: as asked for, else one a visible GPU, else as many as cores allow."""
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return study.processes or gpus or max(1, (cores or 1) // study.threads)


def _gpus() -> tuple[str, ...]:
    """Names of the visible GPUs, to give each worker one of its own."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return tuple(named.split(",")[:count] if named else map(str, range(count)))


def _study_cases(
    study: StudyConfig, dataset: Dataset, facts: Sequence[CaseFacts], fold: int
) -> StudyCases:
    """Split the labelled cases for a fold, and find the images to pretrain on.

    None of these is of a tested patient, not even without its labels.
    """
    split = split_cases(facts, study.test, study.validation, study.split_seed, fold)
    alike, action = study.duplicate_correlation, study.near_duplicates
    names = set(split.test)
    tested = [f for f in facts if f.name in names]
    patients = {f.group for f in tested} | {f.patient for f in tested}
    labelled = {f.name for f in facts}
    others = [c for c in dataset.cases if c.name not in labelled]
    without = inspect(dataset, study.out / "cases-unlabelled.json", others)
    without = unknown_to_test(
        [f for f in without if f.group not in patients], tested, alike, action
    )
    own = [*(f for f in facts if f.group not in patients), *without]
    allowed = {f.name for f in own}
    chosen = [case for case in dataset.cases if case.name in allowed]
    images = image_files(dataset, chosen, study.out / "unpacked")
    further: list[CaseFacts] = []
    if study.unlabelled:
        present = {str(path.resolve()) for path in images}
        found = read_unlabelled(study.unlabelled, study.dataset, study.out / "unlabelled.json")
        found = [f for f in found if str(Path(f.name).resolve()) not in present]
        further = unknown_to_test(found, tested, alike, action)
    paths = (*images, *(Path(f.name) for f in further))
    stated = {modality or "" for modality in dataset.modalities}
    return StudyCases(
        tuple(facts),
        split,
        paths,
        contents([*own, *further]),
        multi_label=dataset.multilabel,
        modality=stated.pop() if len(stated) == 1 else "",
    )


def _write_tables(result: StudyResult, graph: JobGraph, names: Names) -> None:
    out = result.study.out
    parts = [_parts(fold.cases) for fold in graph.folds]
    for name in (name for part in parts for listed in part.values() for name in listed):
        names.add(name)
    tables = {
        "summary": result.summary,
        "rivals": result.rivals,
        "decided": result.decided,
        "runs": result.runs,
        "cases": result.cases.assign(case=result.cases["case"].map(names.of)),
        "pretrainings": result.pretrainings,
        "tuning": result.tuning,
    }
    for name, table in tables.items():
        marked = table.map(cell).rename(columns=cell)
        write_file(out / f"{name}.csv", marked.to_csv(index=False, float_format="%.6g"))
    called = [{part: list(map(names.of, listed)) for part, listed in p.items()} for p in parts]
    split = called[0] if len(called) == 1 else {"folds": called}
    write_json(out / "split.json", {"fingerprint": graph.cases.fingerprint, **split})
    names.save(out)


def _parts(cases: StudyCases) -> dict[str, Sequence[str]]:
    """Who is tested, tuned on, left to draw from, and pretrained on."""
    split = cases.split
    return {
        "test": split.test,
        "validation": split.validation,
        "pool": split.train,
        "pretrained_on": [path.name for path in cases.unlabelled],
    }
