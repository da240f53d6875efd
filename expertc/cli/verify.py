"""``expertc verify``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..verify.agreement import Agreement


@click.command(
    epilog=options.example(
        "expertc verify sharks-rays.expert",
        "expertc verify mine.expert --against full.onnx --data photos/",
    )
)
@click.argument("bundle")
@click.option("--against", metavar="MODEL", help="Compare with this full model, step by step.")
@click.option("--data", metavar="DIR", help="Compare on these photos instead of noise.")
@click.option("--level", metavar="fast|full", help="Run the full model's kept nodes, or the whole model (default).")
@options.foreign
@click.option("--strict", is_flag=True, help="Without a full model: only on the device the bundle is for.")
@click.option("--trust-plan", is_flag=True, help="Open the bundle's own engine.plan: native code of its maker.")
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, against: str | None, data: str | None, level: str | None, labels: str | None, taxonomy: str | None,
    preprocess: str | None, outputs: tuple[str, ...], strict: bool, trust_plan: bool, threads: int | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Check the expert in BUNDLE: on this machine, or against its full model.

    The bundle carries inputs and what the expert made of them where it was built. They are run again as predict would
    run them, and must give the same but for rounding.

    With --against, --data or --level the cut is made again from the full model (by default the bundled one); its raw
    scores, and the bundle's own files, must agree with it.
    """
    from ..bundle import open_bundle
    from ..errors import UsageError, VerificationError

    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    if (against, data, level) == (None, None, None) and not foreign:
        from ..verify.agreement import check_bundle

        with options.compiling(quiet) as told:
            agreement = check_bundle(
                open_bundle(bundle), threads=threads, strict=strict, trust_plan=trust_plan, told=told
            )
        _print(agreement, as_json)
        if not agreement.passed:
            raise VerificationError(
                f"The expert is another here than where it was built: {agreement.detail}",
                "Do not use it here; compare it with --against its full model.",
            )
        return
    if strict or trust_plan or threads is not None:
        raise UsageError(
            "A full model is compared with on the processor, in a process of its own.",
            "Leave out --strict, --trust-plan and --threads, or --against, --data and --level.",
        )
    from ..audit import verify_bundle
    from ..source import open_source
    from .built import summary

    with options.stages(quiet) as progress:
        progress("read")
        opened = open_bundle(bundle)
        source = open_source(against, foreign)
        images = options.photos(source, data)
        progress("verify")
        certificate = verify_bundle(opened, source, level=level or "full", images=images)
    if as_json:
        show.json_out(certificate.to_mapping())
        return
    steps = {step.name: f"{step.detail}\n{_numbers(step.numbers)}" for step in certificate.steps}
    show.facts(steps | {"verification": summary(certificate)})


def _print(agreement: Agreement, as_json: bool) -> None:
    told = agreement.to_mapping()
    if as_json:
        show.json_out(told)
        return
    passed, detail, notices = told.pop("passed"), told.pop("detail"), told.pop("notices")
    said = {"golden record": f"{detail}\n{_numbers({key: value for key, value in told.items() if value is not None})}"}
    said |= {"note": "\n".join(notices)} if notices else {}
    show.facts(said | {"verification": "passed" if passed else "FAILED"})


def _numbers(values: Mapping[str, float]) -> str:
    """Short ``key value`` pairs."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value:,}"
        for key, value in values.items()
    )
