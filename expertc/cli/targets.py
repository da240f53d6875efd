"""``expertc targets``."""

from __future__ import annotations

import click

from . import options, show


@click.command(epilog=options.example("expertc targets", "expertc targets orin-nano-8gb"))
@click.argument("name", required=False)
@options.as_json
@options.everywhere
def command(name: str | None, as_json: bool) -> None:
    """List the device profiles, or show one with the source of every number.

    Your own go to ~/.config/expertc/targets/NAME.toml, or are named by their path (./board.toml).
    """
    from ..targets import WORKSPACE_SHARE, list_targets, load_target

    if name is None:
        found = list_targets()
        if as_json:
            show.json_out([
                {"name": t.name, "backend": t.backend, "description": t.description, "precisions": list(t.precisions)}
                for t in found
            ])  # fmt: skip
            return
        rows = [
            (t.name, t.backend, *map(_text, (t.facts.get(key, "") for key in ("sm", "tensorrt_min", "max_opset"))),
             "" if t.memory_mb is None else f"{t.memory_mb:,} MB")
            for t in found
        ]  # fmt: skip
        show.table(("target", "backend", "SM", "TensorRT from", "opset to", "memory"), rows, left=2, tight=True)
        show.line()
        show.line("next: expertc targets NAME, for the numbers and their sources")
        return
    target = load_target(name)
    if as_json:
        show.json_out({
            "name": target.name, "backend": target.backend, "description": target.description,
            "precisions": list(target.precisions), "facts": dict(target.facts), "sources": dict(target.sources),
        })  # fmt: skip
        return
    derived = None if "workspace_mb" in target.facts else target.workspace_mb
    show.facts({
        "target": target.name,
        "device": target.description,
        "backend": target.backend,
        "precisions": ", ".join(target.precisions),
        **({} if derived is None else {"workspace": f"{derived:,} MB, 1/{WORKSPACE_SHARE} of the memory"}),
    })  # fmt: skip
    for source in dict.fromkeys(target.sources.values()):
        show.line()
        show.facts({"from": source})
        named = {key: fact for key, fact in target.facts.items() if target.sources[key] == source}
        show.facts({f"  {key}": _text(fact) for key, fact in named.items()})


def _text(fact: object) -> str:
    return ", ".join(map(str, fact)) if isinstance(fact, tuple) else str(fact)
