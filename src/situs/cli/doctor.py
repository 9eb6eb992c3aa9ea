"""``situs doctor``."""

import os
import platform
import shutil

from rich.markup import escape
from rich.table import Table

from situs.cli import app
from situs.cli.console import Json, out, print_json
from situs.cores import look

_OPTIONAL = {
    "nilearn": "demo",
    "dynamic_network_architectures": "nnunet",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "ipyniivue": "notebook",
}


@app.command()
def doctor(json: Json = False) -> None:
    """Versions, devices, disk; what is missing and how to get it.

    Example: `situs doctor`
    """
    import importlib.metadata

    import torch

    cores = look()
    threads = cores.threads()
    taken = f"a training takes {threads} thread{'' if threads == 1 else 's'}, {cores.why()}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "situs": importlib.metadata.version("situs"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": importlib.metadata.version("monai"),
        "pytorch-lightning": importlib.metadata.version("pytorch-lightning"),
        "cores": os.cpu_count(),
        "cores free now": f"{cores.said()}; {taken}",
        "gpus": ", ".join(gpus) or "none (training runs on the CPU)",
        "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }
    for package, extra in _OPTIONAL.items():
        found = importlib.util.find_spec(package) is not None
        facts[package] = "found" if found else f"missing: pip install 'situs[{extra}]'"
    if json:
        print_json(facts)
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/]", escape(str(value)))
    out.print(table)
