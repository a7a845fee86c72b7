"""What is typed after `isoflop run`, and files of the user's own: read, or refused in a line that says what to type."""

import os
import shlex

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from omegaconf import OmegaConf

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.compose.hydra_state import others_hydra_kept
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.study.arms import ArmError, variants
from tests.support import compositions
from tests.support.root import ROOT

HEAD = "# @package _global_\n"
OWN = HEAD + "study: {name: own, sizes: [d6], budgets: [2e8], window: {min_steps: 1}}\n"


def composed(*arguments):
    (spec,) = compose_all(arguments)
    return spec


@pytest.fixture
def mine(tmp_path):
    """A function that writes files of `experiment` into a folder, and composes the one named a."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)

    def compose(*more, **files):
        for name, text in files.items():
            (folder / f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return composed("--config-dir", str(folder.parent), "experiment=a", *more)

    return compose


def documented(start):
    """The arguments in a table of docs/corpora-and-models.md that begin so."""
    page = (ROOT / "docs" / "corpora-and-models.md").read_text()
    (found,) = [cell.strip("` ") for cell in page.split("|") if cell.strip(" `").startswith(start)]
    return found.partition("`")[0]


@pytest.mark.slow
def test_vary_and_arms_are_typed_as_the_documentation_has_them():
    vary = documented("study.vary=")
    assert [v.data.unique_tokens for v in variants(composed("experiment=smoke", vary))] == [51200, 204800, None]
    arms = "study.arms={low: {optim: {beta1: 0.8}}, high: {}}"
    assert [(v.arm, v.optim.beta1) for v in variants(composed("experiment=smoke", arms))] == [
        ("low", 0.8),
        ("high", 0.9),
    ]
    assert composed("experiment=smoke", "study.arms.a={optim: {beta1: 0.8}}").study.arms == {
        "a": {"optim": {"beta1": 0.8}}
    }


@pytest.mark.parametrize(
    "value",
    [
        "~/x",
        "out/lr=0.1",
        "l\xe4ufe",
        "\u5b9f\u9a13",
        "a[1]",
        "{x}",
        "a(b)",
        "it's",
        'say "x"=',
        "a[1]/$x",
        "x:[y",
    ],
)
def test_a_text_that_hydra_cannot_read_is_shown_in_the_quotes_it_needs(value):
    """What is shown is typed into a shell, as it is, and gives that text."""
    shown = []
    for key in ("runs", "where.corpora", "data.tokenizer"):
        with pytest.raises(UsageError) as error:
            compose_all([f"{key}={value}"])
        assert "\n" not in str(error.value)
        shown += shlex.split(str(error.value).partition("is typed in quotes: ")[2])
    assert len(shown) == 3
    spec = composed(*shown)
    assert (spec.runs, spec.where.corpora, spec.data.tokenizer) == (value, value, value)


TRUE_OR_FALSE = ("model.tied", "data.skip_bad", "where.compile", "where.activation_checkpointing")


@pytest.mark.parametrize("key", TRUE_OR_FALSE)
@pytest.mark.parametrize("value", ["2", "-1", "0.5", "true,2"])
def test_a_number_is_neither_true_nor_false(key, value):
    with pytest.raises(UsageError, match=rf"{key}={value}: {key} is true or false, not "):
        compose_all([f"{key}={value}"])


@pytest.mark.parametrize(("sound", "meant"), [("0", False), ("1", True), ("true", True), ("false", False)])
def test_zero_and_one_are_false_and_true(sound, meant):
    spec = composed(*(f"{key}={sound}" for key in TRUE_OR_FALSE))
    where = spec.where
    assert [spec.model.tied, spec.data.skip_bad, where.compile, where.activation_checkpointing] == [meant] * 4


@pytest.mark.parametrize("override", ["study.vary={model.tied: [true, 2]}", "study.arms={a: {model: {tied: 2}}}"])
def test_a_number_is_neither_true_nor_false_in_an_arm(override):
    with pytest.raises(ArmError, match=r"model\.tied is true or false, not 2"):
        list(variants(composed("experiment=smoke", override)))


def test_the_search_path_is_not_typed_as_a_key():
    with pytest.raises(UsageError, match=r"config_dirs=\[a\]: config_dirs is filled in; type --config-dir DIR"):
        compose_all(["config_dirs=[a]"])


def test_each_entry_of_a_list_is_quoted():
    with pytest.raises(UsageError) as error:
        compose_all(["data.files=[a[1].txt, t/*.txt]"])
    (typed,) = shlex.split(str(error.value).partition("is typed in quotes: ")[2])
    assert composed(typed).data.files == ["a[1].txt", "t/*.txt"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": OWN.removeprefix(HEAD)}, "experiment/a.yaml: its first line must be `# @package _global_`"),
        ({"a": HEAD + "defaults: [a]\n"}, "name the file itself: .*a.yaml -> .*a.yaml"),
        ({"a": HEAD + "defaults: [b]\n", "b": HEAD + "defaults: [/experiment: a]\n"}, "a.yaml -> .*b.yaml -> .*a.yaml"),
        ({"a": HEAD + "x: [\n"}, r"experiment/a\.yaml: while parsing"),
        ({"a": b"\xff\xfe" + HEAD.encode()}, r"experiment/a\.yaml cannot be read \('utf-8' codec"),
        ({"a": HEAD + "study: {name: x, <<: *zz}\n"}, r"experiment/a\.yaml: found undefined alias"),
        ({"a": HEAD + "- a\n- b\n"}, "experiment/a"),
        ({"a": HEAD + "study: {budgets: [abc]}\n"}, r"experiment/a\.yaml: study\.budgets\[0\] takes a number, not abc"),
        ({"a": HEAD + "stduy: {name: x}\n"}, r"experiment/a\.yaml: unknown key 'stduy'; did you mean 'study'"),
        ({"a": HEAD + "a: &a {b: *a}\n"}, "its anchors unfold to more than 100,000 values"),
        ({"a": HEAD + "x: " + "[" * 100_000}, "exceeded maximum nesting depth|nested too deeply"),
        ({"a": HEAD + "defaults: [{a: {b: c}}]\n"}, r"experiment/a\.yaml: line 2: an entry of defaults is NAME or"),
        ({"a": HEAD + "study:\n  name: x\n  ~: 5\n"}, r"experiment/a\.yaml: line 4: a key is a text"),
        ({"a": HEAD + "? [1]\n: 5\n"}, r"experiment/a\.yaml: line 2: a key is a text"),
        ({"a": OWN + "data: {skip_bad: 2}\n"}, r"experiment/a\.yaml: data\.skip_bad is true or false, not 2"),
        ({"a": OWN + "config_dirs: [x]\n"}, r"experiment/a\.yaml: config_dirs is filled in"),
        ({"a": "#" * 10_000_001}, "10,000,001 bytes; a file of a configuration has at most 10,000,000"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)  # fmt: skip
def test_a_file_that_is_no_study_is_named(mine, files, message):
    with pytest.raises(UsageError, match=message) as error:
        mine(**files)
    assert "\n" not in str(error.value)


def test_anchors_that_unfold_to_millions_are_counted_and_not_unfolded(mine):
    lines = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 8)]
    with pytest.raises(UsageError, match="unfold to more than 100,000 values"):
        mine(a=HEAD + "a0: &a0 [x]\n" + "\n".join(lines) + "\nstudy: {name: bomb, sizes: *a7}\n")


@pytest.mark.slow
def test_a_file_beside_is_not_in_the_way_and_a_pipe_is_no_study(mine, tmp_path):
    assert mine(a=OWN, b="x: [").study.name == "own"
    os.mkfifo(tmp_path / "mine" / "experiment" / "pipe.yaml")
    with pytest.raises(UsageError, match="no experiment 'pipe'"):
        composed("--config-dir", str(tmp_path / "mine"), "experiment=pipe")


def test_a_list_given_as_a_text_says_how_a_list_is_written():
    with pytest.raises(UsageError, match=r"data\.files=t: data\.files takes a list of texts: data\.files=\[t\]"):
        compose_all(["data.files=t"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hydra", "key"),
    [
        ("callbacks: {x: {_target_: os.system}}", "callbacks"),
        ("job_logging: {version: 1, handlers: {x: {'()': os.system}}}", "job_logging"),
        ("hydra_logging: {version: 1, handlers: {x: {'()': os.system}}}", "hydra_logging"),
        ("launcher: {_target_: os.system}", "launcher._target_"),
        ("sweeper: {_target_: os.system}", "sweeper"),
        ("run: {dir: /tmp/x}", "run"),
        ("job: {env_set: {A: b}}", "job"),
    ],
)
def test_a_file_of_a_study_sets_nothing_of_hydras_that_could_run_code(mine, hydra, key):
    with pytest.raises(UsageError, match=rf"--config-dir .*: a file in it sets hydra\.{key}, "):
        mine(a=f"{OWN}hydra: {{{hydra}}}\n")


@pytest.mark.slow
def test_a_file_of_a_study_says_where_its_launcher_runs_and_not_what(mine):
    assert mine("hydra/launcher=slurm_cpu", a=f"{OWN}hydra: {{launcher: {{partition: p}}}}\n").study.name == "own"
    with pytest.raises(UsageError, match=r"sets hydra\.launcher\.setup"):
        mine("hydra/launcher=slurm_cpu", a=f"{OWN}hydra: {{launcher: {{setup: [touch x]}}}}\n")


@pytest.mark.parametrize("override", ["model=d32", "model.n_layer=4", "seed=3", "++seed=3"])
def test_a_key_that_each_size_of_a_study_sets_itself_is_refused(override):
    with pytest.raises(UsageError, match=r"override study\.(sizes|seeds)=\[...\]"):
        compose_all(["experiment=smoke", override])


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [["experiment=quick"], ["optim=muon", "schedule=cosine", "model=d12", "budget.tokens=1e6"], ["+study.x=1"]],
    ids=lambda overrides: overrides[0],
)
def test_what_the_tests_share_is_what_hydra_composes(overrides, monkeypatch):
    """Twice from what is kept, and once by Hydra alone."""

    def tree():
        with others_hydra_kept(), initialize_config_module("isoflop.conf", version_base="1.3"):
            return OmegaConf.to_yaml(compose("config", overrides=overrides, return_hydra_config=True))

    assert ConfigRepository.load_config is not compositions.READ
    first, again = tree(), tree()
    monkeypatch.setattr(ConfigRepository, "load_config", compositions.READ)
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compositions.MERGE)
    assert first == again == tree()


@pytest.mark.parametrize("key", ["study.vary", "study.arms"])
@pytest.mark.parametrize("form", ["{key}={{}}", "{key}=null", "~{key}", "++{key}={{}}"])
def test_a_key_of_names_can_be_emptied(mine, key, form):
    leaf = key.partition(".")[2]
    inside = "{optim.momentum: [0.9, 0.95]}" if leaf == "vary" else "{a: {}, b: {optim: {momentum: 0.9}}}"
    text = HEAD + f"study: {{name: own, sizes: [d6], budgets: [2e8], {leaf}: {inside}}}\n"
    assert getattr(mine(a=text).study, leaf)
    assert getattr(mine(form.format(key=key), a=text).study, leaf) == {}
    with pytest.raises(UsageError, match=rf"{key}\.x=\[1\]: another override has {key} hold nothing"):
        mine(form.format(key=key), f"{key}.x=[1]", a=text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.budgets=1e9", "study.budgets takes a list of numbers: study.budgets=[1000000000.0]"),
        ("study.sizes=d8", "study.sizes takes a list of texts: study.sizes=[d8]"),
        ("study.seeds=range(1,3)", "study.seeds takes a list of whole numbers: study.seeds=[1]"),
        ("study.seeds=[a]", "study.seeds[0] takes a whole number, not a"),
        ("study.window.tokens_per_param=5", "takes a list of numbers, or null: study.window.tokens_per_param=[5]"),
        ("study.cells=[{size: d6, flops: x}]", "study.cells takes a list of entries, each keys with values, of size"),
        ("study.window=3", "study.window takes keys with values, of tokens_per_param"),
        ("study.stop=null", "study.stop takes a text, not null; leave it out"),
        ("study.arms=3", "study.arms takes names with what each stands for"),
        ("seed=1e3", "seed takes a whole number, written as one: seed=1000"),
        ("model.n_layer=2.5", "model.n_layer takes a whole number, not 2.5"),
        ("budget.flops=x", "budget.flops takes a number, or null, not x"),
        ("data.mixture.a=x", "data.mixture.a takes a number, not x"),
        ("data=null", "data takes the name of a file of conf/data"),
        ("experiment=null", "experiment takes the name of a file of conf/experiment; leave it out"),
        ("optim.learning_rate=interval(.01,.02)", "an interval names no values; type those to try"),
        ("~optim.learning_rate", "a key cannot be taken out; type its value, optim.learning_rate=..."),
    ],
)
def test_what_a_key_cannot_have_is_said_with_what_it_takes(override, message):
    with pytest.raises(UsageError) as error:
        compose_all([override])
    assert message in str(error.value)
    key = override.lstrip("~").partition("=")[0]
    assert str(error.value).lstrip("~").startswith(key)
    assert not any(raw in str(error.value) for raw in ("ListConfig", "merging", "Optional", "of type", "converted"))


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("stop: null", r"experiment/a\.yaml: study\.stop takes a text, not null"),
        ("arms: {8: {}}", r"experiment/a\.yaml: study\.arms: 8 is no text, as names are; write it in quotes: '8'"),
        ("hold_out: 3", r"experiment/a\.yaml: study\.hold_out takes a list of numbers: study\.hold_out=\[\.\.\., "),
        ("seeds: [x]", r"experiment/a\.yaml: study\.seeds\[0\] takes a whole number, not x"),
    ],
)
def test_what_a_file_cannot_set_is_said_with_what_it_takes(mine, inside, message):
    with pytest.raises(UsageError, match=message):
        mine(a=HEAD + f"study: {{name: own, sizes: [d6], budgets: [2e8], {inside}}}\n")


def test_what_an_arm_cannot_set_is_said_with_what_it_takes():
    with pytest.raises(ArmError, match=r"study\.arms\.a: optim\.learning_rate takes a number, not fast"):
        list(variants(composed("experiment=smoke", "study.arms={a: {optim: {learning_rate: fast}}}")))
    with pytest.raises(ArmError, match=r"study\.vary\.optim\.beta1='x': optim\.beta1 takes a number, not x"):
        list(variants(composed("experiment=smoke", "study.vary={optim.beta1: [x]}")))
