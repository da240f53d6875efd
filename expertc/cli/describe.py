"""What ``expertc inspect`` found, as text that fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..text import times
from . import show
from .built import summary

if TYPE_CHECKING:
    from ..exits import Exits

LISTED = 8  # branches, class names


def arch(facts: Mapping[str, Any]) -> None:
    """What ``zoo.count_arch`` found."""
    show.facts({
        "architecture": facts["arch"],
        "classes": show.count(facts["classes"]),
        "input": f"3 x {facts['size']} x {facts['size']}",
        "parameters": show.count(facts["parameters"]),
        "MACs": show.count(facts["macs"]),
        "as thop counts": show.count(facts["macs_thop"]),
        **({"MACs, routed": show.count(facts["macs_routed"])} if "macs_routed" in facts else {}),
        **({"as torchinfo does": show.count(facts["macs_torchinfo"])} if "macs_torchinfo" in facts else {}),
        **({"MACs to each exit": ", ".join(map(show.count, facts["macs_to_exit"]))} if "macs_to_exit" in facts else {}),
    })  # fmt: skip


def model(facts: Mapping[str, Any]) -> None:
    """A model and its branches, the largest first."""
    branches = facts["branches"]
    selected = "" if facts["selected_from"] is None else f" of {facts['selected_from']}"
    show.facts({
        "model": facts["name"],
        "file": f"{facts['file']}, {show.size(facts['file_bytes'])}, SHA-256 {facts['sha256'][:16]}…",
        "classes": f"{len(facts['classes'])}{selected}: {_names(facts['classes'])}",
        "taxonomy": "flat" if facts["levels"] == 1 else f"{facts['levels']} levels",
        "input": ", ".join(f"{name} [{_shape(shape)}]" for name, shape in facts["inputs"].items()),
        "output": ", ".join([*map(_output, facts["outputs"]), *facts["outputs_beside"]]),
        **_driven(facts["deciding"]),
        "graph": f"{show.count(facts['nodes'])} nodes, opset {facts['opset']}, IR version {facts['ir_version']}",
        **_card(facts),
    })  # fmt: skip
    rows = [("all", "", *_cost(facts)), ("trunk", "", *_cost(facts["trunk"]))]
    rows += [
        (branch["name"] or "(no category)", show.count(len(branch["classes"])), *_cost(branch))
        for branch in branches[:LISTED]
    ]
    if len(branches) > LISTED:
        rows.append((f"… {len(branches) - LISTED} more, no larger", "", "", "", ""))
    for number, one in enumerate(facts["exits"] or (), 1):
        said = " and ".join(name for name in ("fine", "coarse") if one[name] is not None)
        rows.append((f"to exit {number}, {said}", "", *_cost(one)))
    show.line()
    show.table(("part", "classes", "parameters", "MACs", "weights"), rows)
    if facts["routed"]:
        from ..graph.routing import ONE_WAY

        show.line(ONE_WAY)
    show.line()
    show.line("expertc classes, with the same path, shows the branches as a tree")


def bundle(facts: Mapping[str, Any]) -> None:
    """A bundle, by its manifest."""
    from ..verify import Certificate

    selection, forms = facts["selection"], facts["forms"]
    output, source = facts["output"], facts["source"]
    show.facts({
        "bundle": facts["name"],
        "source": f"{source['name']}, SHA-256 {source['sha256'][:16]}…",
        "classes": f"{len(selection['classes'])} of {selection['of']}: {_names(selection['classes'])}",
        "target": f"{facts['target']}, {facts['precision']}",
        "forms": "; ".join(_forms(forms)),
        "input": f"{facts['input']['name']} [{_shape(facts['input']['shape'])}]",
        "output": _output(output),
        **_exits(facts),
        **_reject(facts.get("reject")),
        "verification": summary(Certificate.from_mapping(facts["verification"])),
        "golden record": "expertc verify runs it again, on any device" if facts["golden"] else "none",
        "made with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        **_card(facts),
        **_engine(facts.get("engine")),
        "files": "\n".join(f"{name}, {show.size(entry['bytes'])}" for name, entry in facts["files"].items()),
    })  # fmt: skip
    full, expert = facts["costs"]["full"], facts["costs"]["expert"]
    pairs = {key: (full["cost"][key], expert["cost"][key]) for key in ("parameters", "macs")}
    pairs["file_bytes"] = (full["file_bytes"], expert["file_bytes"])
    names = {"parameters": "parameters", "macs": "MACs per image", "file_bytes": "file bytes"}
    rows = [(names[key], show.count(a), show.count(b), show.change(b, a)) for key, (a, b) in pairs.items()]
    show.line()
    show.table(("", "full model", "expert", "change"), rows)


def _engine(record: Any) -> dict[str, str]:
    """Where the plan in a bundle was compiled, as the bundle says; nothing without one."""
    made = record.get("identity") if isinstance(record, dict) else None
    if not isinstance(made, dict):
        return {}
    return {"engine": ", ".join(f"{key} {made.get(key)}" for key in ("tensorrt", "device", "sm", "os"))}


def _forms(forms: Mapping[str, Any]) -> list[str]:
    """What was made of the plain cut, in words."""
    batch, passes = forms["batch"], forms["passes"]
    return [
        "any number of images per call" if batch == "dynamic" else f"{batch} image{'s' * (batch != 1)} per call",
        f"passes that changed it: {', '.join(passes)}" if passes else "as it was cut",
        *([f"branches fused: {_short(forms['fuse'])}"] if forms["fuse"] != "off" else []),
        *([f"opset {forms['opset']} at most"] if forms.get("opset") else []),
    ]


def _card(facts: Mapping[str, Any]) -> dict[str, str]:
    """What the card says about preprocessing, licence and origin."""
    made = {"preprocessing": "not known: predict needs it, so build with --preprocess imagenet or FILE"}
    spec = facts["preprocess"]
    if spec is not None:
        resize = (
            f"short side to {spec['resize']}" if isinstance(spec["resize"], int) else f"to {_shape(spec['resize'])}"
        )
        made["preprocessing"] = (
            f"{resize} ({spec['interpolation']}), centre {_shape(spec['size'])}, {spec['colour']}, {spec['layout']}\n"
            f"mean {_short(spec['mean'])}; std {_short(spec['std'])}"
        )
    if facts["weights_licence"]:
        made["licence"] = facts["weights_licence"]
    if facts["provenance"]:
        made["provenance"] = "\n".join(f"{key}: {_short(value)}" for key, value in facts["provenance"].items()
                                       if value != "")  # fmt: skip
    return made


def _decided(exits: Exits) -> list[str]:
    """What decides among exits, in lines."""
    set_to = [f"{name} {', '.join(f'{value:g}' for value in own)}" for name, own in exits.settings.items()]
    said = [f"{'; '.join(set_to)} nats{', frozen' * exits.frozen}"] if set_to else []
    strict = exits.strict_coarse and exits.compares and len(exits.exits) > 1
    return said + ["early categories only if surer than the class by more than the tolerance"] * strict


def _driven(deciding: Any) -> dict[str, str]:
    """The form of a model with exits, and what decides among them; nothing without."""
    from ..exits import Exits

    exits = Exits.from_mapping(deciding)
    if exits is None:
        return {}
    form = "nested: decided in the graph" if exits.driven else "plain: all are computed"
    return {"exits": "\n".join([f"{len(exits.exits)}, {form}", *_decided(exits)])}


def _exits(facts: Mapping[str, Any]) -> dict[str, str]:
    """Early exits, what decides among them, and on what photos that was chosen."""
    from ..exits import Exits

    exits = Exits.from_mapping(facts.get("exits"))
    if exits is None:
        return {}
    if len(exits.exits) == 1:
        said = ["1 is left, which always answers"]
    else:
        said = [f"{len(exits.exits)}, {'decided in the graph' if exits.driven else 'one graph for each'}"]
    said += _decided(exits)
    if (chosen := facts.get("operating_point")) is not None:
        right, fine = chosen["accuracy"], chosen["fine"]
        said.append(
            f"chosen on {right['images']:,} photos: {show.percent(right['hits'] / right['images'])} right, "
            f"{show.percent(fine['hits'] / fine['images'])} name a class"
        )
    return {"exits": "\n".join(said)}


def _reject(reject: Mapping[str, Any] | None) -> dict[str, str]:
    """When the expert says "none of these"."""
    if reject is None:
        return {}
    say = f"{reject['score']} below {reject['threshold']:.6g}"
    return {"none of these": f"{say}: {100 * reject['caught']:.1f} % of {reject['others']:,} other photos"}


def _cost(cost: Mapping[str, int]) -> tuple[str, str, str]:
    return show.count(cost["parameters"]), show.count(cost["macs"]), show.size(cost["weight_bytes"])


def _names(classes: list[str]) -> str:
    return ", ".join(classes[:LISTED]) + (", …" if len(classes) > LISTED else "")


def _output(output: Mapping[str, Any]) -> str:
    return f"'{output['name']}', {output['kind']}, one per class along axis {output['axis']}"


def _shape(shape: list[Any]) -> str:
    return " x ".join("?" if axis is None else str(axis) for axis in shape)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def explain(stopped: Mapping[str, int]) -> None:
    """What stopped the demand analysis, and how often."""
    reasons = [f"{times(number)}: {reason}" for reason, number in stopped.items()]
    show.line()
    show.facts({"kept whole": "\n".join(reasons) or "nothing: every branch can be cut to its last channel"})
