"""`pggan-fast info`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pggan_fast.cli.options import Flag

if TYPE_CHECKING:
    import torch

SCHEMA = 1  # of the JSON: keys may be added, none renamed


@dataclass
class Command:
    """Say which backends run here, which do not, why, and what would change that.

    Also: versions, device, CPU instruction sets, compilers, how the native modules were built, cache folder and
    environment variables. Paste its output into a bug report.
    """

    json: Flag = False
    """Print JSON."""

    def run(self) -> int:
        found = facts()
        print(json.dumps(found, indent=2) if self.json else "\n".join(_lines(found)))
        return 0


def facts() -> dict[str, Any]:
    """Everything that `info` prints."""
    from pggan_fast import settings
    from pggan_fast.backends import cpu, report

    device = report.default_device()
    return {
        "schema": SCHEMA,
        "versions": report.versions(),
        "commit": report.commit(),
        "machine": report.machine(device),
        "device": str(device),
        "untested": report.untested(),
        "cpu": cpu.describe(),
        "backends": report.backends(),
        "build": cpu.build_report(),
        "tools": report.tools(),
        "cache": str(settings.cache_folder()),
        "tuning": _tuning(device),
        "environment": report.environment(),
    }


def _tuning(device: torch.device) -> dict[str, Any]:
    """What was measured on the device, and what the automatic choice goes by."""
    import warnings

    from pggan_fast.backends import tables

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tables.forget()
        known = tables.table(device)
    return {
        "table": str(tables.path_of(tables.device_key(device))),
        "fingerprint": tables.fingerprint(device),
        "measured": len(known["ways"]),
        "plans": len(known["plans"]),
        "checked": len(known["checks"]),
        "unwritable": tables.unwritable(),
        "ignored": str(caught[0].message) if caught else None,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    machine, cpu = found["machine"], found["cpu"]
    versions = [f"{name} {version}" for name, version in found["versions"].items() if version]
    lines = [", ".join(versions)]
    if found["commit"]:
        lines.append(f"commit {found['commit']}")
    memory = machine["memory_bytes"]
    lines += [
        "",
        f"device          {found['device']}: {machine['device']}",
        f"CPU             {machine['cpu']}, {machine['cores']} cores, {machine['threads']} torch threads"
        + (f", {memory / 2**30:.0f} GiB" if memory else ""),
        f"float32 convs   {machine['fp32_precision']}",
    ]
    for kind in found["untested"]:
        lines.append(f"{kind:<14}  untested: ops on such a device run torch's own kernels (backend 'aten')")
    if "isa" in cpu:
        lines.append(f"CPU kernels     use {cpu['isa']}; can use {', '.join(cpu['isas'])}")
        if cpu["serial"]:
            lines.append(f"                {cpu['serial']}")
    lines += ["", "backends"]
    for name, backend in found["backends"].items():
        ops = f"{len(backend['ops'])} internal ops" if backend["ops"] else "the plain PyTorch that defines every op"
        lines.append(f"  {name:<12}  " + (f"no: {backend['reason']}" if backend["reason"] else f"yes, {ops}"))
    lines += ["", "native modules (linked to no torch: one build serves every torch)"]
    for name, result in found["build"].items():
        lines.append(f"  {name:<12}  " + ("built" if result["built"] else f"not built: {result.get('reason')}"))
    if not found["build"]:
        lines.append("  the installation recorded no build")
    lines += ["", "tools"]
    for name, tool in found["tools"].items():
        what = f"{tool['version'] or 'version unknown'} ({tool['path']})" if tool["path"] else "not found"
        lines.append(f"  {name:<12}  {what}; {tool['for']}")
    tuning = found["tuning"]
    lines += ["", f"cache folder    {found['cache']}", f"table           {tuning['table']}"]
    measured = f"{tuning['measured']} calls measured (fingerprint {tuning['fingerprint']})"
    lines.append(f"                {measured if tuning['measured'] else 'nothing measured: pggan-fast tune'}")
    lines.append(f"                {tuning['checked']} kinds of calls checked against the reference")
    if tuning["unwritable"]:
        lines.append(f"                {tuning['unwritable']}")
    if tuning["ignored"]:
        lines.append(f"                {tuning['ignored']}")
    lines += ["", "environment variables"]
    for name, variable in found["environment"].items():
        lines.append(f"  {name}={variable['value']}" if variable["value"] is not None else f"  {name} is not set")
        lines.append(f"      {variable['meaning']}")
    return lines
