"""What torch can compute on here, and what would let it use an NVIDIA card that lies idle."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Devices:
    """What is offered: (name for torch, text) each; `hint` says what to do about a card that is not used."""

    offered: tuple[tuple[str, str], ...]
    about: str = ""
    hint: str = ""
    command: str = ""


def find_devices() -> Devices:
    """The devices that torch finds; imports torch."""
    import torch

    from napari_unetpp.model.checkpoint import choose_device

    found = [("cpu", f"CPU, {torch.get_num_threads()} threads")]
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if cuda:
        found.append(("cuda", f"CUDA, {torch.cuda.get_device_name()}"))
    if mps:
        found.append(("mps", "Apple GPU (MPS)"))
    offered = (("auto", f"Automatic ({choose_device('auto').type.upper()})"), *found)
    about = f"torch {torch.__version__} finds " + ", ".join(text for _, text in found)
    if cuda or mps:
        return Devices(offered, about)
    reason = "is built without CUDA" if torch.version.cuda is None else "finds no card that it can use"
    about += f"; it {reason}"
    command = cuda_command(sys.platform, sys.executable)
    if command and torch.version.cuda is None:
        about += f".\nFor an NVIDIA card: {command}"
        if shutil.which("nvidia-smi"):
            return Devices(offered, about, f"There is an NVIDIA card, but torch {reason}.", command)
    return Devices(offered, about)


def cuda_command(platform: str, python: str) -> str:
    """The command that puts a torch with CUDA in place of one without; empty where there is none.

    >>> cuda_command("linux", "/venv/bin/python")
    '/venv/bin/python -m pip install --force-reinstall torch'
    >>> cuda_command("win32", "python.exe")
    'python.exe -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126'
    """
    if platform == "darwin":
        return ""
    # On Linux the wheels of PyPI are those with CUDA; on Windows they are without.
    index = " --index-url https://download.pytorch.org/whl/cu126" if platform == "win32" else ""
    return f"{python} -m pip install --force-reinstall torch{index}"
