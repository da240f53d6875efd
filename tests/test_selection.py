"""What a person may type for ``--classes``, and the laws of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from expertc import selection
from expertc.errors import ExitCode, SelectionError
from expertc.selection import class_rows, fold, plurals, resolve
from expertc.taxonomy import Taxonomy


@pytest.fixture(scope="module")
def sea() -> Taxonomy:
    return Taxonomy.shipped("sea-animals")


def refused(taxonomy: Taxonomy, text: str, **options: Any) -> SelectionError:
    with pytest.raises(SelectionError) as caught:
        resolve(taxonomy, text, **options)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith((".", "?"))
    return caught.value


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("sharks,rays", "rays sharks"),
        (" rays ,, sharks, rays,", "rays sharks"),
        ("cartilaginous-fishes", "rays sharks"),
        ("fishes/cartilaginous-fishes", "rays sharks"),
        ("fishes/cartilaginous-fishes/sharks", "sharks"),
        ("cartilaginous-fishes/sharks", "sharks"),
        ("Cartilaginous Fishes / Shark", "sharks"),
        ("cartilaginous-fishes/", "rays sharks"),
        ("/fishes/cartilaginous-fishes/", "rays sharks"),
        ("cartilaginous-fishes/Sea Rays", "rays"),
        ("Sea Rays", "rays"),
        ("sea_rays", "rays"),
        ("SEA-RAY", "rays"),
        ("shark", "sharks"),
        ("ray", "rays"),
        ("jellyfish", "jellyfish"),
        ("Jelly Fish", "jellyfish"),
        ("octopus", "octopuses"),
        ("octopuses", "octopuses"),
        ("Octopi", "octopuses"),
        ("seahorse", "seahorses"),
        ("Seahorses", "seahorses"),
        ("puffer", "pufferfish"),
        ("starfishes", "starfish"),
        ("turtle tortoise", "turtles-and-tortoises"),
        ("fish", "other-fish"),  # its label is Fish: folded, which beats the category's plural
        ("#3", "dolphins"),
        ("3", "dolphins"),
        ("#2-3, 16-17", "crabs dolphins seals sharks"),
        ("#13,rays,Sea Rays", "rays"),
        ("fishes, -bony-fishes", "rays sharks"),
        ("-bony-fishes, fishes", "rays sharks"),
        ("fishes,-'Eel',-#5,-12,-seahorse", "rays sharks"),
        ("'sharks', \"rays\"", "rays sharks"),
    ],
)
def test_grammar(sea: Taxonomy, text: str, classes: str) -> None:
    found = resolve(sea, text)
    assert found.classes == tuple(classes.split())
    assert found.indices == tuple(sea.classes.index(name) for name in classes.split())
    assert not found.is_all


def test_only_exclusions_and_everything(sea: Taxonomy) -> None:
    found = resolve(sea, "-sharks")
    assert set(sea.classes) - set(found.classes) == {"sharks"}
    assert not found.is_all
    everything = resolve(sea, "#0-22")
    assert everything.is_all
    assert everything.classes == sea.classes


def test_the_items_by_themselves(sea: Taxonomy) -> None:
    """In the order of asking, each once, without what is excluded."""
    fishes = resolve(sea, "cartilaginous-fishes").indices
    rays, sharks = fishes
    assert resolve(sea, "squids, cartilaginous-fishes, rays, Sea Rays").parts == (
        (sea.classes.index("squids"),),
        fishes,
        (rays,),
    )
    assert resolve(sea, "cartilaginous-fishes, -rays, rays").parts == ((sharks,),)
    assert resolve(sea, "-rays").parts == (tuple(i for i in range(len(sea)) if i != rays),)


def test_requested_is_the_text_cleaned(sea: Taxonomy) -> None:
    assert resolve(sea, " sharks,\trays\x1b").requested == "sharks, rays"


SYNSETS = """
tree:
  birds: {crane-bird: {index: 0, synset: n02012849, label: crane}}
  machines: {crane-machine: {index: 1, synset: n03126707, label: crane}}
  swimwear: {maillot: {index: 2, label: maillot}, tank-suit: {index: 3, label: maillot}}
  "jack-o'-lantern": {index: 4}
  "cake, devil's food": {index: 5}
  "-ve": {index: 6}
  "@home": {index: 7}
  "#1 fan": {index: 8}
"""


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("n03126707", 1),
        ("N03126707", 1),
        ("birds/crane", 0),
        ("Machine/Cranes", 1),
        ("maillot", 2),  # a name before a label
        ("swimwear/maillot", 2),
        ("jack-o'-lantern", 4),
        ("Jack-o’-Lantern", 4),
        ("'jack-o'-lantern'", 4),
        ('"cake, devil\'s food"', 5),
        ("'cake, devil's food'", 5),
        ("'-ve'", 6),
        ("'@home'", 7),
        ('"#1 fan"', 8),
    ],
)
def test_synsets_labels_and_quotes(text: str, row: int) -> None:
    taxonomy = Taxonomy.parse(SYNSETS)
    assert resolve(taxonomy, text).indices == (row,)
    assert row not in resolve(taxonomy, f"-{text}").indices


def test_names_of_folders_are_found_as_the_command_line_finds_them(sea: Taxonomy) -> None:
    """What is one class in quotes is that class; a category, even with one class, is none."""
    named = [key for node in sea.nodes() for key in (node.name, node.label, node.synset, node.name.upper()) if key]
    named += ["shark", "Sea Rays", "fishes/sharks", "whale/sharks", "", " ", "#3", "7", "-sharks", "@sharks"]
    found = class_rows(sea, named)
    for name in named:
        quoted = f'"{name}"'
        try:
            rows = resolve(sea, quoted).indices
        except SelectionError:
            rows = ()
        assert found.get(name) == (rows[0] if len(rows) == 1 else None), name
    only = sea.restrict(resolve(sea, "sharks").indices)
    assert class_rows(only, ["fishes", "Sharks"]) == {"Sharks": 0}


def test_ambiguity_lists_the_candidates_as_paths() -> None:
    error = refused(Taxonomy.parse(SYNSETS), "crane")
    assert "'birds/crane-bird' (#0) or 'machines/crane-machine' (#1)" in error.message
    many = Taxonomy.from_mapping({"tree": {f"c{i}": {"index": i, "label": "same"} for i in range(30)}})
    assert "and 20 more" in refused(many, "same").message


def test_two_nodes_with_the_same_classes_are_no_ambiguity() -> None:
    taxonomy = Taxonomy.parse("tree: {a-b: {a_b: {index: 0}}, c: {index: 1}}")
    assert resolve(taxonomy, "A B").indices == (0,)


def test_exact_beats_folded_beats_plural() -> None:
    taxonomy = Taxonomy.parse("tree: {Ray: {index: 0}, ray: {index: 1}, rays: {index: 2}, eel: {index: 3}}")
    assert resolve(taxonomy, "Ray").indices == (0,)
    assert resolve(taxonomy, "ray").indices == (1,)
    assert resolve(taxonomy, "Rays").indices == (2,)
    assert "'Ray' (#0) or 'ray' (#1)" in refused(taxonomy, "RAY").message
    assert resolve(taxonomy, "EELS").indices == (3,)


def test_separators_around_digits_are_kept_apart() -> None:
    taxonomy = Taxonomy.flat(["class-1-1", "class-12"])
    assert resolve(taxonomy, "Class_1 1").indices == (0,)
    refused(taxonomy, "class-11")


# -- rows ----------------------------------------------------------------------------------------------------


def test_bare_numbers_are_names_where_a_label_is_a_number() -> None:
    digits = Taxonomy.flat([str(9 - i) for i in range(10)])
    assert resolve(digits, "3").indices == (6,)
    assert resolve(digits, "#3").indices == (3,)
    assert resolve(digits, "'3'").indices == (6,)
    assert "#12" in refused(digits, "12").hint
    ages = Taxonomy.flat(["0-4", "5-9", "10-99"])
    assert resolve(ages, "5-9").indices == (1,)
    assert resolve(ages, "#0-1").indices == (0, 1)


@pytest.mark.parametrize("text", ["#23", "23", "#0-23", "#4-0", "#" + "9" * 5000, "0-" + "9" * 5000])
def test_rows_that_are_not_there(sea: Taxonomy, text: str) -> None:
    error = refused(sea, text)
    assert "#0 to #22" in error.hint
    assert len(error.message) < 150


@pytest.mark.parametrize("text", ["#", "#x", "#-3", "#3-", "#3 sharks", "#3.0", "#٣"])
def test_malformed_rows(sea: Taxonomy, text: str) -> None:
    assert "#3 or #0-4" in refused(sea, text).hint


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", ",", " , ,", "\x1b,\u202e"])
def test_nothing_selected(sea: Taxonomy, text: str) -> None:
    assert refused(sea, text).message == "No class is selected."


@pytest.mark.parametrize("text", ["sharks,-sharks", "-#0-22", "fishes,-rays,-fishes"])
def test_everything_excluded(sea: Taxonomy, text: str) -> None:
    assert "no class selected" in refused(sea, text).message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sharx", "'sharks'"),
        ("Shraks", "'sharks'"),
        ("turtle", "'turtles-and-tortoises'"),
        ("sea horse", "'seahorses'"),
        ("cetacean-s", "'cetaceans'"),
        ("mammals/sharks", "'fishes/cartilaginous-fishes/sharks' (#17)"),
        ("bony-fishes/sharks", "'fishes/cartilaginous-fishes/sharks' (#17)"),
        ("fishes/sharks", "'fishes/cartilaginous-fishes/sharks' (#17)"),
    ],
)
def test_did_you_mean(sea: Taxonomy, text: str, meant: str) -> None:
    error = refused(sea, f"rays,{text}")
    assert f"'{text}'" in error.message
    assert meant in error.hint


def test_unknown_without_anything_near(sea: Taxonomy) -> None:
    assert "expertc classes" in refused(sea, "qwxzk").hint


@pytest.mark.parametrize("text", ["-", "- sharks", "rays,-,", "-@file", "- 'sharks'"])
def test_an_exclusion_says_what(sea: Taxonomy, text: str) -> None:
    assert "leave out" in refused(sea, text).message


@pytest.mark.parametrize("text", ["'sharks", '"sharks,rays', "'sharks\"", "''", "-'", "'a'b", "'\x07'"])
def test_quotes_that_are_not_closed(sea: Taxonomy, text: str) -> None:
    assert "not closed" in refused(sea, text).message


# -- files ---------------------------------------------------------------------------------------------------


def test_file(sea: Taxonomy, tmp_path: Path) -> None:
    text = (
        "# wanted\r\n\r\n#comment\r\nsharks\t# the big ones\r\n"
        "  Sea Rays  \r\n#3\r\n#0-1 # rows\r\n-#1\r\n'eels' # quoted\r\n-\"clams\"\r\n"
    )
    (tmp_path / "wanted.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert resolve(sea, "@wanted.txt", base=tmp_path).classes == ("dolphins", "eels", "rays", "sharks")
    assert resolve(sea, f"crabs, @{tmp_path}/wanted.txt,-eels").classes == ("crabs", "dolphins", "rays", "sharks")


def test_file_is_relative_to_the_working_directory(
    sea: Taxonomy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wanted").write_text("-sharks\r-rays\r")
    assert resolve(sea, "@wanted").classes == resolve(sea, "-sharks,-rays").classes


def test_a_line_of_a_file_may_hold_commas_and_hashes(tmp_path: Path) -> None:
    taxonomy = Taxonomy.flat(["cake, devil's food", "C#", "a # b", "#1 fan", "@home", "'tis"])
    (tmp_path / "list").write_text("cake, devil's food\nC#\n'a # b'\n\"#1 fan\" # yes\n'@home'\n\"'tis\"\n")
    assert resolve(taxonomy, "@list", base=tmp_path).is_all


def test_file_refusals(sea: Taxonomy, tmp_path: Path) -> None:
    assert "No such file" in refused(sea, "@none", base=tmp_path).message
    assert "directory" in refused(sea, "@.", base=tmp_path).message
    for content, says in [
        (b"\xff\xfes\0", "UTF-8"),
        (b"a\0b", "NUL"),
        (b"@other", "another file"),
        (b"#3x", "not a row"),
        (b"#3 sharks", "not a row"),
        (b"- sharks\n- rays", "leave out"),
        (b"# nothing\n\n", "No class is selected"),
        (b"'sharks' rays", "not closed"),
    ]:
        (tmp_path / "list").write_bytes(content)
        assert says in refused(sea, "@list", base=tmp_path).message, content


# -- spelling ------------------------------------------------------------------------------------------------

# From English grammar, not from the rules: sibilants, -y, -o, -f, Latin and Germanic plurals, unchanged ones.
NOUNS = """shark sharks|ray rays|horse horses|octopus octopuses|octopus octopi|bus buses|fox foxes|fish fishes|
finch finches|thrush thrushes|butterfly butterflies|donkey donkeys|mosquito mosquitoes|flamingo flamingos|
wolf wolves|calf calves|knife knives|leaf leaves|giraffe giraffes|mouse mice|dormouse dormice|goose geese|
mongoose mongooses|louse lice|snowman snowmen|mantis mantises|axis axes|cactus cacti|glass glasses|tortoise tortoises|
lens lenses|ox oxen|child children|person people|tooth teeth|foot feet|house houses|nurse nurses|
great-white-shark great-white-sharks|sea-urchin sea-urchins"""


@pytest.mark.parametrize("pair", [pair.strip() for pair in NOUNS.split("|")])
def test_plurals(pair: str) -> None:
    one, many = pair.split()
    assert many in plurals(one)
    for name, typed in ((one, many), (many, one)):
        assert resolve(Taxonomy.flat([name, "zebra"]), typed.upper()).indices == (0,)


@pytest.mark.parametrize("pair", ["pine pins", "cloth close", "bee be", "ship shop", "car care"])
def test_what_is_no_plural(pair: str) -> None:
    one, other = pair.split()
    for name, typed in ((one, other), (other, one)):
        refused(Taxonomy.flat([name, "zebra"]), typed)


def test_fold() -> None:
    assert fold("Sea__Rays ") == fold("sea-rays") == fold("SEA RAYS") == fold("ｓea\u00a0rays")
    assert fold("Straße") == fold("STRASSE")
    assert fold("a / b/c") == "a/b/c"
    assert fold("-") == "-"


# -- laws ----------------------------------------------------------------------------------------------------

LAW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

NAMES = st.text("ab cdDA-_/'\",#@1é", min_size=1, max_size=6).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    """Trees of any shape over nasty, unique names."""
    names = draw(st.lists(NAMES, min_size=2, max_size=14, unique=True))
    rng = random.Random(draw(st.integers(0, 2**32)))
    trees: list[dict[str, Any]] = []
    count = rng.randrange(1, len(names))
    rows = rng.sample(range(count), count)
    trees = [{names.pop(): {"index": row}} for row in rows]
    while names:  # every further name becomes the parent of some of the trees
        below = [trees.pop(rng.randrange(len(trees))) for _ in range(rng.randrange(1, len(trees) + 1))]
        trees.append({names.pop(): {key: value for tree in below for key, value in tree.items()}})
    return Taxonomy.from_mapping({"tree": {key: value for tree in trees for key, value in tree.items()}})


def quote(name: str) -> str:
    """``name`` as an item; some names with quotes before commas can only be given by row."""
    for mark in ("'", '"'):
        if not any(part.strip() in ("", ",") or part.lstrip().startswith(",") for part in name.split(mark)[1:]):
            return f"{mark}{name}{mark}"
    assume(False)
    raise AssertionError


@LAW
@given(taxonomies(), st.data())
def test_order_and_repeats_do_not_matter(taxonomy: Taxonomy, data: st.DataObject) -> None:
    sign = st.sampled_from(["", "-"])
    rows = st.integers(0, len(taxonomy) - 1)
    names = st.sampled_from(sorted(taxonomy.by_name)).map(quote)
    items = data.draw(st.lists(st.tuples(sign, names | rows.map(lambda row: f"#{row}")).map("".join), min_size=1))
    shuffled = data.draw(st.permutations(items)) + data.draw(st.lists(st.sampled_from(items), max_size=3))

    def outcome(parts: list[str]) -> Any:
        try:
            return resolve(taxonomy, ",".join(parts)).indices
        except SelectionError:
            return "refused"

    assert outcome(items) == outcome(shuffled)


@LAW
@given(taxonomies(), st.data())
def test_union_and_complement(taxonomy: Taxonomy, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(taxonomy.by_name)), min_size=1, max_size=4))
    expected = {row for name in names for row in taxonomy.by_name[name].leaves}
    items = [quote(name) for name in names]
    try:
        found = resolve(taxonomy, ", ".join(items))
    except SelectionError as error:  # a name with a slash may also be the path of another node
        assert "could be" in error.message and any("/" in name for name in names)  # noqa: PT017, PT018
        return
    assert set(found.indices) == expected
    assert list(found.indices) == sorted(found.indices)
    assert found.classes == tuple(taxonomy.classes[row] for row in found.indices)
    assert found.is_all == (len(expected) == len(taxonomy))
    excluded = ", ".join("-" + item for item in items)
    if found.is_all:
        refused(taxonomy, excluded)
    else:
        assert set(resolve(taxonomy, excluded).indices) == set(range(len(taxonomy))) - expected


@LAW
@given(taxonomies(), st.data())
def test_every_tail_of_every_path_finds_its_node(taxonomy: Taxonomy, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(taxonomy.by_name)))
    path = taxonomy.path(name)
    tail = "/".join(path[data.draw(st.integers(0, len(path) - 1)) :])
    try:
        assert resolve(taxonomy, quote(tail)).indices == taxonomy.by_name[name].leaves
    except SelectionError as error:
        assert "could be" in error.message and any("/" in part for part in taxonomy.by_name)  # noqa: PT017, PT018
        assert f"'{'/'.join(path)}'" in error.message  # noqa: PT017


@LAW
@given(st.text(max_size=40) | st.text("sharky, -'\"#@/0123", max_size=30))
def test_any_text_is_resolved_or_refused(sea: Taxonomy, text: str) -> None:
    assume("@" not in text)
    try:
        found = resolve(sea, text)
    except SelectionError as error:
        assert error.hint  # noqa: PT017
    else:
        assert found.indices
        assert set(found.indices) <= set(range(23))


def check_paths(taxonomy: Taxonomy) -> None:
    for node in taxonomy.nodes():
        path = "/".join(taxonomy.path(node.name))
        text = ",".join([f'"{path}"', f'"{node.name}"', f'"{node.name.upper().replace("-", " ")}"'])
        assert resolve(taxonomy, text).indices == node.leaves
    everything = ",".join(f'"{"/".join(taxonomy.path(leaf.name))}"' for leaf in taxonomy.leaves)
    assert resolve(taxonomy, everything).is_all


def test_every_node_of_the_shipped_taxonomy(sea: Taxonomy) -> None:
    check_paths(sea)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette", "imagewoof", "sea-animals", "tiny-imagenet"])
def test_every_node_of_the_data_taxonomies(data_dir: Path, name: str) -> None:
    check_paths(Taxonomy.load(data_dir / "taxonomies" / f"{name}.yaml"))


def test_every_leaf_of_imagenet(data_dir: Path) -> None:
    taxonomy = Taxonomy.load(data_dir / "taxonomies" / "imagenet1k.yaml")
    for spelled in (
        "/".join,
        lambda path: path[-1].upper().replace("-", "_"),
        lambda path: "/".join(path[-2:]).title(),
    ):
        text = ",".join(f'"{spelled(taxonomy.path(leaf.name))}"' for leaf in taxonomy.leaves)
        assert resolve(taxonomy, text).is_all
    synsets = ",".join(leaf.synset for leaf in taxonomy.leaves[100:300])
    assert resolve(taxonomy, synsets).indices == tuple(range(100, 300))


def test_work_is_linear_in_classes_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    true = selection.fold

    def counted(text: str) -> str:
        nonlocal calls
        calls += 1
        return true(text)

    monkeypatch.setattr(selection, "fold", counted)
    work = []
    for count in (200, 2000):
        tree = {f"group-{g}": {f"class-{g}-{c}": {"index": g * 10 + c} for c in range(10)} for g in range(count // 10)}
        taxonomy = Taxonomy.from_mapping({"tree": tree})
        calls = 0
        items = [f"GROUP {g}/Class {g} {c}" for g in range(count // 10) for c in range(10)]
        assert resolve(taxonomy, ",".join(items)).is_all
        work.append(calls)
    assert work[1] <= 10.5 * work[0]
