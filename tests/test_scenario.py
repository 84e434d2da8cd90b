"""A scenario fails early, with the key's path, what is allowed and the nearest spelling."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from fedkvasir.errors import UserError
from fedkvasir.names import check_names, spelled_out
from fedkvasir.scenario import json_schema, load, parse

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.lerning_rate=1", "unknown key training.lerning_rate"),
        ("trainig.lr=1", "unknown key trainig (did you mean 'training'?)"),
        ("training.lr=fast", "training.lr = 'fast'"),
        ("training.lr=-1", "training.lr = -1: input should be greater than 0"),
        ("training.lr=inf", "training.lr = 'inf': input should be a finite number"),
        ("training.weight_decay=.inf", "training.weight_decay = inf: input should be a finite number"),
        ("federation.deadline_s=inf", "federation.deadline_s = 'inf': input should be a finite number"),
        ("evaluation.tolerance_px=.nan", "evaluation.tolerance_px = nan: input should be a finite number"),
        (
            "data.centers.alta.partition={kind: quantity, shares: [1, .inf]}",
            "shares.1 = inf: input should be",
        ),
        ("sweep={ranges: {training.lr: {low: 0, high: .inf}}, search: random, budget: 2}", "high = inf: input should"),
        ("faults=[{kind: slow, factor: .inf}]", "faults.0.factor = inf: input should be a finite number"),
        ("training.accumulate=0", "training.accumulate = 0: input should be greater than or equal to 1"),
        ("data.centers.alta.role=houldout", "(did you mean 'holdout'?)"),
        ("data.centers.alta.splitt=group", "unknown key data.centers.alta.splitt (did you mean 'split'?)"),
        ("federation.quorum=2", "federation.quorum = 2"),
        ("evaluation.select=best-on-test", "evaluation.select = 'best-on-test'"),
        ("data.centers.alta.partition={kind: quantity}", "kind quantity takes shares"),
        (
            "data.centers={alta: {dataset: folder, partition: {kind: iid, parts: 2}}, alta-1: {dataset: folder}}",
            "data.centers.alta: its partition makes a hospital alta-1, and another center is called alta-1; rename one",
        ),
        (
            "data.centers={a-1: {dataset: x, role: holdout}, a: {dataset: x, partition: {kind: iid, parts: 2}}}",
            "data.centers.a: its partition makes a hospital a-1, and another center is called a-1",
        ),
        ("faults=[{kind: dropuot}]", "(did you mean 'dropout'?)"),
        ("faults=[{kind: dropout, centre: alta}]", "unknown key faults.0.centre (did you mean 'center'?)"),
        ("faults=[{kind: dropout, factor: 2}]", "faults.0: kind dropout takes no key of its own, here: factor"),
        ("faults=[{kind: corrupt}]", "faults.0: kind corrupt takes how, here: none"),
        ("faults=[{kind: corrupt, how: scaled}]", "kind corrupt takes factor and how, here: how"),
        ("faults=[{kind: slow, seconds: 1, factor: 2}]", "kind slow takes seconds or factor, here: seconds, factor"),
        ("faults=[{kind: slow, factor: 0.5}]", "kind slow takes a factor above 1"),
        ("faults=[{kind: wrong-labels, share: 0.1, rounds: [1]}]", "takes neither rounds nor probability"),
        ("faults=[{kind: dropout, rounds: [0]}]", "faults.0.rounds.0 = 0"),
        ("faults=[{kind: hang}]", "would wait for ever (hang): set federation.deadline_s"),
        ("faults=[{kind: late, seconds: 1}]", "would wait for ever (late): set federation.deadline_s"),
        (
            "name=My_Study",
            "name = 'My_Study': a name may hold a-z, 0-9 and '-', and begins with a letter or a digit; it is",
        ),
        ("data.centers.Oslo={dataset: folder}", "data.centers.Oslo: a name may hold a-z, 0-9 and '-', and begins"),
        ("federation.train=Oslo", "federation.train = 'Oslo': a name may hold"),
        (
            "data.centers={no: {dataset: folder}}",
            "data.centers: YAML takes a key there for False, which is no text: put",
        ),
        ("data={1: 2}", "data: YAML takes a key there for 1, which is no text"),
        (
            "data.centers.alta.center=3",
            "data.centers.alta.center = 3: input should be a valid string; put it in quotes",
        ),
        (
            "data.centers.alta.split=offical",
            "data.centers.alta.split = 'offical': it is group, official or official:NAME",
        ),
        ("model=unet", "model = 'unet': should be keys with their values, e.g. model.name"),
        ("data.centers.alta=synthetic", "should be keys with their values, e.g. data.centers.alta.dataset"),
        ("training.lr", "is not of the form key.path=value"),
        ("task.x=1", "task is not a group of keys"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(tiny: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tiny, (override,))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.name=unte", "unknown segmentation model 'unte' (did you mean 'unet'?)"),
        ("model.encoder=resnet81", "unknown encoder 'resnet81' (did you mean 'resnet18'?)"),
        ("model.decoder_chanels=[1]", "unet does not take it (did you mean 'decoder_channels'?)"),
        ("training.loss=dise", "(did you mean 'dice'?)"),
        ("training.loss=cross-entropy", "is not known for segmentation"),
        ("training.loss.gama=1", "training.loss.gama: dice+bce does not take it; it takes no parameters"),
        ("training.loss={name: focal, gama: 1}", "training.loss.gama: focal does not take it (did you mean 'gamma'?)"),
        ("training.loss={name: focal, alpha: 1}", "training.loss.alpha = 1: should be less than 1"),
        ("training.loss={name: focal, gamma: .nan}", "training.loss.gamma = nan: should be "),
        ("training.loss={name: tversky, beta: -0.5}", "training.loss.beta = -0.5: should be greater than 0"),
        ("training.loss={name: tversky, beta: true}", "training.loss.beta = True: should be a valid number"),
        ("training.augment=heavy", "known: none, light, divergentnets"),
        ("algorithm=fedavgg", "unknown name 'fedavgg' (did you mean 'fedavg'?)"),
        ("algorithm={name: fedprox, mue: 1}", "algorithm.mue: fedprox does not take it (did you mean 'mu'?)"),
        ("algorithm={name: fedprox, mu: big}", "algorithm.mu = 'big': should be a valid number"),
        ("algorithm={name: fedprox, mu: -1}", "algorithm.mu = -1: should be greater than or equal to 0"),
        ("algorithm={name: fedprox, mu: .nan}", "algorithm.mu = nan: should be"),
        ("algorithm={name: fedadam, beta_1: 1}", "algorithm.beta_1 = 1: should be less than 1"),
        ("algorithm={name: fedadam, tau: 0}", "algorithm.tau = 0: should be greater than 0"),
        ("algorithm={name: scaffold, server_lr: -1}", "algorithm.server_lr = -1: should be greater than 0"),
        ("faults=[{kind: crash, center: atla}]", "faults.0.center = 'atla' is no hospital that trains (did you mean"),
        ("faults=[{kind: crash, center: edinburgh}]", "is no hospital that trains"),
        ("data.centers.alta.dataset=synthetik", "unknown dataset 'synthetik' (did you mean 'synthetic'?)"),
        (
            "data.options.synthetik.seed=1",
            "data.options.synthetik: there is no such dataset (did you mean 'synthetic'?)",
        ),
        ("data.roots.kvasirseg=/x", "data.roots.kvasirseg: there is no such dataset (did you mean 'kvasir-seg'?)"),
        ("data.options.synthetic.sead=1", "data.options.synthetic.sead: unknown option (did you mean 'seed'?)"),
        ("data.options.synthetic.patients_per_center=ten", "= 'ten': input should be a valid integer"),
        (
            "data.options.synthetic.patients_per_center=10000000",
            "data.options.synthetic.patients_per_center = 10000000: input should be less than or equal to 1000",
        ),
        ("data.options.synthetic.patients_per_center=0", "= 0: input should be greater than or equal to 1"),
        ("data.options.polypgen.parts=1", "data.options.polypgen.parts = 1: input should be a valid tuple, e.g. ("),
    ],
)
def test_a_name_that_nobody_knows_is_refused_before_data_is_read(tiny: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check_names(load(tiny, (override,)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("training.optimizer=adam", "training.momentum=0.9"),
            "training.momentum = 0.9 means nothing under training.optimizer = adam; leave it out, or set its default, "
            "training.momentum=0.0",
        ),
        (
            ("training.schedule={name: cosine, every: 10}",),
            "training.schedule.every = 10 means nothing under training.schedule.name = cosine; leave it out",
        ),
        (("training.schedule={name: cosine, times: 1}",), "or set its default, training.schedule.times=null"),
    ],
)
def test_what_means_nothing_is_refused_before_it_is_run_and_read_where_it_was(
    tiny: Path, overrides: tuple[str, ...], sentence: str
) -> None:
    """It would be the same run under another name; such runs of before can still be read, and reported."""
    scenario = load(tiny, overrides)
    with pytest.raises(UserError) as caught:
        check_names(scenario)
    assert sentence in str(caught.value)
    tiny.write_text(scenario.dump())
    assert load(tiny) == scenario


@pytest.mark.parametrize(
    "training", ["{optimizer: sgd, momentum: 0.9}", "{schedule: {name: cosine}}", "{schedule: {name: step, every: 10}}"]
)
def test_what_means_something_is_not_refused_nor_are_defaults_that_are_written_out(tiny: Path, training: str) -> None:
    tiny.write_text(load(tiny, (f"training={training}",)).dump())
    check_names(load(tiny))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("label_smoothing: 1", "training.loss.label_smoothing = 1: should be less than 1"),
        ("class_weights: balnced", "training.loss.class_weights = 'balnced': should be 'balanced' or a valid list"),
        ("class_weights: [1, 0]", "training.loss.class_weights = [1, 0]: should be 'balanced' or greater than 0"),
        ("class_weight: balanced", "cross-entropy does not take it (did you mean 'class_weights'?)"),
    ],
)
def test_a_classifiers_loss_is_checked_before_data_is_read(parameters: str, sentence: str) -> None:
    scenario = REPOSITORY / "scenarios" / "quickstart-classification.yaml"
    with pytest.raises(UserError) as caught:
        check_names(load(scenario, (f"training.loss={{name: cross-entropy, {parameters}}}",)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("algorithm=fedprox", "algorithm={name: fedprox, mu: 0.01}"),
        ("algorithm={name: fedprox, mu: 1}", "algorithm={name: fedprox, mu: 1.0}"),
        ("training.loss=focal", "training.loss={name: focal, gamma: 2, alpha: 0.25}"),
        ("model={name: fpn}", "model={name: fpn, encoder: resnet34, pyramid_channels: 256}"),
        ("model={name: unet}", "model={name: unet, decoder_channels: [256, 128, 64, 32, 16]}"),
        (
            "model={name: ensemble, encoder: resnet18, members: [unet, fpn]}",
            "model={name: ensemble, encoder: resnet18, fusion: {name: mean}, "
            "members: [{name: unet, encoder: resnet18}, {name: fpn, encoder: resnet18}]}",
        ),
    ],
)
def test_a_default_of_an_algorithm_a_loss_or_a_network_that_is_spelled_out_makes_no_other_run(
    tiny: Path, short: str, long: str
) -> None:
    resolved = spelled_out(load(tiny, (short,)))
    assert resolved.decisive() == spelled_out(load(tiny, (long,))).decisive()
    tiny.write_text(resolved.dump())
    assert spelled_out(load(tiny)) == load(tiny) == resolved


def test_records_tell_every_parameter(tiny: Path) -> None:
    resolved = spelled_out(load(tiny, ("algorithm=fedadam", "training.loss=tversky", "model={name: fpn}"))).dump()
    for told in ("tau: 0.001", "beta: 0.7", "encoder: resnet34", "segmentation_channels: 128"):
        assert told in resolved


def test_a_loss_is_a_name_or_a_name_with_parameters(tiny: Path) -> None:
    assert load(tiny).training.loss.model_dump() == {"name": "dice+bce"}
    both = {"name": "tversky", "alpha": 0.4}
    assert load(tiny, ("training.loss={name: tversky, alpha: 0.4}",)).training.loss.model_dump() == both
    separate = load(tiny, ("training.loss=tversky", "training.loss.alpha=0.4"))
    assert separate.training.loss.model_dump() == both
    tiny.write_text(separate.dump())
    assert load(tiny) == separate
    with pytest.raises(UserError, match=r"key training\.loss\.name is missing"):
        load(tiny, ("training.loss={alpha: 0.4}",))


@pytest.mark.parametrize("training", ["{lr: 0.1}", "{}", None])
def test_a_loss_that_is_not_named_is_that_of_the_task(tiny: Path, training: str | None) -> None:
    for task, loss in (("classification", "cross-entropy"), ("segmentation", "dice+bce")):
        plain = {key: value for key, value in yaml.safe_load(tiny.read_text()).items() if key != "training"}
        given = {} if training is None else {"training": yaml.safe_load(training)}
        scenario = parse({"name": "here", **plain, **given, "task": task}, "here")
        assert scenario.training.loss.name == loss
        assert scenario.training.lr == (given.get("training") or {}).get("lr", 1e-3)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{name: linknet, encoder: mit_b0}", "linknet cannot be built with {'encoder': 'mit_b0'}"),
        ("{name: dpt, encoder: resnet18}", "dpt cannot be built with {'encoder': 'resnet18'}"),
        ("{name: unet, encoder: tu-swin_tiny_patch4_window7_224}", "takes images of 224 x 224 pixels only"),
        ("{name: ensemble, encoder: densenet121, members: [unet, deeplabv3]}", "deeplabv3 cannot be built with"),
    ],
)
def test_an_encoder_that_an_architecture_refuses_is_refused_before_data_is_read(
    tiny: Path, model: str, sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_names(load(tiny, (f"model={model}",)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("model", "size", "sentence"),
    [
        (
            "vit_tiny_patch16_224",
            96,
            "model: vit_tiny_patch16_224 cannot be applied at data.image_size = 96: Input height (96) doesn't match "
            "model (224); set data.image_size=224, which it takes",
        ),
        ("inception_v3", 64, "Kernel size can't be greater than actual input size; set data.image_size=299, which"),
        ("levit_128s", 96, "; set data.image_size=224, which it takes"),
        ("vit_small_patch14_dinov2", 96, "; set data.image_size=518, which it takes"),
        (
            "{name: unet, encoder: tu-maxvit_nano_rw_256}",
            64,
            "model: unet with {'encoder': 'tu-maxvit_nano_rw_256'} cannot be applied at data.image_size = 64: "
            "height (4) must be divisible by window (8); set data.image_size=256, which it takes",
        ),
        ("{name: unet, decoder_channels: [0, 1, 1, 1, 1]}", 64, "; choose another size or model"),
        (
            "{name: fpn, segmentation_channels: 0}",
            64,
            "Expected number of channels to be greater than 0, got 0; choose",
        ),
        (
            "{name: ensemble, members: [unet, {name: fpn, segmentation_channels: 0}]}",
            64,
            "model: fpn with {",
        ),
    ],
)
def test_a_network_that_does_not_take_the_size_of_picture_is_refused_before_data_is_read(
    tiny: Path, model: str, size: int, sentence: str
) -> None:
    """With the size that it takes, where timm knows one."""
    task = "segmentation" if model.startswith("{") else "classification"
    model = model if model.startswith("{") else f"{{name: {model}}}"
    changes = (f"task={task}", "training.loss={name: bce}" if task == "segmentation" else "training.loss=cross-entropy")
    with pytest.raises(UserError) as caught:
        check_names(load(tiny, (*changes, f"model={model}", f"data.image_size={size}")))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_encoder_that_looks_at_numbers_while_it_is_built_is_not_refused(tiny: Path) -> None:
    check_names(load(tiny, ("model={name: unet, encoder: mit_b0}",)))


def test_scaffold_refuses_anything_but_plain_sgd(tiny: Path) -> None:
    with pytest.raises(UserError, match="scaffold needs plain SGD"):
        check_names(load(tiny, ("algorithm=scaffold", "training.optimizer=adam")))
    with pytest.raises(UserError, match="scaffold needs plain SGD"):
        check_names(load(tiny, ("algorithm=scaffold", "training.momentum=0.9")))
    check_names(load(tiny, ("algorithm=scaffold",)))


@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224"])
def test_fedbn_refuses_a_network_without_batch_normalisation(tiny: Path, model: str) -> None:
    """It would be fedavg under another name."""
    classify = ("task=classification", "training.loss=cross-entropy", "algorithm=fedbn")
    with pytest.raises(UserError, match=f"model.name = {model} has none: set algorithm=fedavg"):
        check_names(load(tiny, (*classify, f"model={{name: {model}}}", "data.image_size=224")))
    check_names(load(tiny, (*classify, "model={name: resnet18}")))
    its_decoder_has_some = "model={name: unet, encoder: tu-convnext_atto}"
    check_names(load(tiny, ("algorithm=fedbn", its_decoder_has_some)))


def test_every_center_a_holdout_is_refused(tmp_path: Path, tiny: Path) -> None:
    raw = yaml.safe_load(tiny.read_text())
    for center in raw["data"]["centers"].values():
        center["role"] = "holdout"
    tiny.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="no center has role train"):
        load(tiny)


def test_what_is_for_the_other_task_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"data\.labels: a label space is for classification"):
        load(tiny, ("data.labels=kvasir-8",))
    with pytest.raises(UserError, match=r"evaluation\.scoring: endocv2021-official scores masks"):
        load(tiny, ("task=classification", "evaluation.scoring=[default,endocv2021-official]"))


def test_overrides_set_nested_keys_and_read_yaml_values(tiny: Path) -> None:
    scenario = load(tiny, ("training.lr=3e-4", "seed=7", "algorithm.mu=0.1", "algorithm.name=fedprox"))
    assert (scenario.training.lr, scenario.seed) == (3e-4, 7)
    assert (scenario.algorithm.name, scenario.algorithm.parameters) == ("fedprox", {"mu": 0.1})


def test_a_resolved_scenario_reads_back_as_itself(tiny: Path, tmp_path: Path) -> None:
    scenario = load(tiny)
    again = tmp_path / "resolved.yaml"
    again.write_text(scenario.dump())
    assert load(again) == scenario


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; `fedkvasir init`"):
        load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        load(broken)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_scenario_of_the_repository_is_valid_and_asks_a_question(path: Path) -> None:
    scenario = load(path)
    check_names(scenario)
    assert scenario.question.endswith("?")


def test_the_schema_for_editors_names_every_top_level_key() -> None:
    assert {"task", "data", "model", "training", "algorithm", "federation"} <= set(json_schema()["properties"])


def test_the_schema_for_editors_says_of_accumulate_what_the_documentation_does() -> None:
    said = json_schema()["$defs"]["Training"]["properties"]["accumulate"]["description"]
    exceptions = "but for batch normalisation, which sees 4, and for class weights, whose mean is taken a batch"
    documentation = (REPOSITORY / "docs" / "scenario.md").read_text()
    assert exceptions in " ".join(said.split()) and exceptions in " ".join(documentation.split())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_for_editors_takes_what_is_taken(path: Path) -> None:
    """Names alone, what a recipe leaves to say, and `resources: auto`."""
    schema, raw = Draft202012Validator(json_schema()), yaml.safe_load(path.read_text())
    for scenario in (raw, raw | {"resources": "auto"}):
        assert not [error.message for error in schema.iter_errors(scenario)]
    assert [*schema.iter_errors(raw | {"modle": {}})]


def test_a_run_without_faults_is_named_as_if_there_were_no_such_key(tiny: Path) -> None:
    assert "faults" not in load(tiny).decisive()
    assert "faults" in load(tiny, ("faults=[{kind: dropout}]",)).decisive()


def test_what_hospitals_tell_is_not_what_changes_the_numbers(tiny: Path) -> None:
    asked, more = load(tiny), load(tiny, ("evaluation.share=per-image",))
    assert (asked.evaluation.share, more.evaluation.share) == ("per-center", "per-image")
    assert asked.decisive() == more.decisive() and more.dump() != asked.dump()


def test_faults_survive_being_written_and_are_said_in_words(tiny: Path) -> None:
    scenario = load(tiny, ("faults=[{kind: corrupt, center: cadiz, rounds: [1, 2], how: nan}, {kind: crash}]",))
    tiny.write_text(scenario.dump())
    assert load(tiny) == scenario
    assert [str(fault) for fault in scenario.faults] == [
        "corrupt at cadiz (rounds 1, 2, how nan)",
        "crash at every hospital",
    ]
