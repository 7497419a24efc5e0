"""Arithmetic ceilings of the processor: loops that touch registers alone, written in LLVM IR for the host.

A loop keeps so many independent accumulators that the latency of one multiply-add hides behind the others, and
nothing is loaded or stored inside. Its operands come from memory and its sums go back there, so the compiler can
leave nothing out. What an instruction set lacks is None: neither emulated nor guessed.
"""

from __future__ import annotations

import ctypes
import platform
import statistics
import threading
import time
from dataclasses import dataclass

import numpy as np

REPEATS = 5
UNROLL = 8  # the loop's own add, compare and jump are then below 1 % of the issued instructions


@dataclass(frozen=True, slots=True)
class Loop:
    """A multiply-add instruction: its LLVM intrinsic, the types of sum and operands, and operations per call.

    `lanes` operands of `operand` type make one register; `sums` of them the accumulators that fit beside the operands.
    """

    intrinsic: str
    total: str
    operand: str
    operations: int
    sums: int


def loops() -> dict[str, Loop | None]:
    """The widest multiply-add of every precision on this host; None where it has no instruction for it."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    found: dict[str, Loop | None] = {"fp32": None, "bf16": None, "int8": None}
    if platform.machine().lower() in ("aarch64", "arm64"):
        found["fp32"] = Loop("llvm.fma.v4f32", "<4 x float>", "<4 x float>", 8, 24)
        return found
    if features.get("avx512f"):
        found["fp32"] = Loop("llvm.fma.v16f32", "<16 x float>", "<16 x float>", 32, 16)
    elif features.get("fma"):
        found["fp32"] = Loop("llvm.fma.v8f32", "<8 x float>", "<8 x float>", 16, 12)
    if features.get("avx512bf16"):
        found["bf16"] = Loop("llvm.x86.avx512bf16.dpbf16ps.512", "<16 x float>", "<32 x bfloat>", 64, 16)
    if features.get("avx512vnni"):
        found["int8"] = Loop("llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<16 x i32>", 128, 16)
    elif features.get("avxvnni"):
        found["int8"] = Loop("llvm.x86.avx512.vpdpbusd.256", "<8 x i32>", "<8 x i32>", 64, 12)
    return found


def missing(name: str) -> str:
    """Why a ceiling is None."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return f"{name}: not measured on Arm"
    wanted = {"fp32": "FMA", "bf16": "AVX512_BF16", "int8": "AVX512_VNNI or AVX_VNNI"}[name]
    return f"{name}: this processor has no {wanted}"


def source(loop: Loop) -> str:
    """LLVM IR of `void loop(i64 n, ptr operands, ptr sums)`, which runs n * UNROLL * sums instructions."""
    total, operand, numbers = loop.total, loop.operand, range(loop.sums)
    call = f"call {total} @{loop.intrinsic}({total} %{{}}, {operand} %x, {operand} %y)"
    lines = [
        f"declare {total} @{loop.intrinsic}({total}, {operand}, {operand})",
        "define void @loop(i64 %n, ptr %operands, ptr %sums) {",
        "entry:",
        f"  %x = load {operand}, ptr %operands, align 64",
        f"  %second = getelementptr {operand}, ptr %operands, i64 1",
        f"  %y = load {operand}, ptr %second, align 64",
    ]
    for i in numbers:
        lines += [
            f"  %p{i} = getelementptr {total}, ptr %sums, i64 {i}",
            f"  %s{i} = load {total}, ptr %p{i}, align 64",
        ]
    lines += ["  br label %body", "body:", "  %k = phi i64 [0, %entry], [%next, %body]"]
    lines += [f"  %a0_{i} = phi {total} [%s{i}, %entry], [%a{UNROLL}_{i}, %body]" for i in numbers]
    lines += [f"  %a{u + 1}_{i} = {call.format(f'a{u}_{i}')}" for u in range(UNROLL) for i in numbers]
    lines += [
        "  %next = add i64 %k, 1",
        "  %more = icmp slt i64 %next, %n",
        "  br i1 %more, label %body, label %exit",
        "exit:",
    ]
    lines += [f"  store {total} %a{UNROLL}_{i}, ptr %p{i}, align 64" for i in numbers]
    return "\n".join([*lines, "  ret void", "}"])


class Compiled:
    """A loop as machine code; it lives as long as this object."""

    def __init__(self, loop: Loop) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten()
        if "avx512f" in features:  # some hosts prefer half registers, to spare the clock
            features += ",-prefer-256-bit"
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=3
        )
        module = llvm.parse_assembly(source(loop))
        module.verify()
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address("loop")
        # A ctypes call releases the interpreter's lock, so threads run side by side.
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address)
        self._per_turn = loop.operations * loop.sums * UNROLL
        self._loop = loop

    def rate(self, turns: int) -> float:
        """Operations a second of processor time, by this thread."""
        operands, sums = _aligned(4096), _aligned(8192)
        operands[:] = _pattern(self._loop, len(operands))
        began = time.thread_time()
        self._function(turns, operands.ctypes.data, sums.ctypes.data)
        seconds = time.thread_time() - began
        if not sums.any():
            raise RuntimeError("the loop left its sums untouched")
        return self._per_turn * turns / seconds

    def turns(self, seconds: float) -> int:
        """How many turns take about so long."""
        return max(1, int(self.rate(20_000) * seconds / self._per_turn))


def measure(name: str, loop: Loop | None, threads: int, seconds: float = 0.2) -> dict[str, object] | None:
    """Giga-operations a second with one thread and with all; None without the ISA.

    A limit is the best of the repeats: whatever disturbs a repeat only makes it slower.
    """
    if loop is None:
        return None
    compiled = Compiled(loop)
    turns = compiled.turns(seconds)
    one = [compiled.rate(turns) / 1e9 for _ in range(REPEATS)]
    every = [_together(compiled, turns, threads) / 1e9 for _ in range(REPEATS)]
    return {
        "instruction": loop.intrinsic,
        "one_core": max(one),
        "one_core_median_range": [statistics.median(one), min(one), max(one)],
        "all_cores": max(every),
        "all_cores_median_range": [statistics.median(every), min(every), max(every)],
        "unit": "GOP/s" if name == "int8" else "GFLOP/s",
    }


def ceilings(threads: int, seconds: float = 0.2) -> dict[str, float | None]:
    """Giga-operations a second of all threads by precision; empty where llvmlite is not installed."""
    try:
        found = loops()
    except ImportError:
        return {}
    measured = {name: measure(name, loop, threads, seconds) for name, loop in found.items()}
    return {name: float(str(m["all_cores"])) if m else None for name, m in measured.items()}


def _together(compiled: Compiled, turns: int, threads: int) -> float:
    rates = [0.0] * threads
    start = threading.Barrier(threads)

    def work(k: int) -> None:
        start.wait()
        rates[k] = compiled.rate(turns)

    running = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(rates)


def _aligned(size: int) -> np.ndarray:
    """Zeroed bytes that start at a multiple of 64."""
    whole = np.zeros(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]


def _pattern(loop: Loop, size: int) -> np.ndarray:
    """Operands near 1, so that no sum becomes a slow denormal number."""
    if "bfloat" in loop.operand:
        return np.full(size // 2, 0x3F80, np.uint16).view(np.uint8)
    if "float" in loop.operand:
        return np.full(size // 4, 0.75, np.float32).view(np.uint8)
    return np.ones(size, np.uint8)
