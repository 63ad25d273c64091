"""Writing a flow: what each method makes of its arguments, and a table of everything one can do wrong."""

import ast
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ganglion as gg
from ganglion import flow as flow_package
from ganglion.core.errors import FlowError, GanglionError
from ganglion.flow import build
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ANYWHERE, Aggregate, Backlog, Constraint, WindowStage

LOOSE: Any = gg
NUMBER: Any = 20
"""What mypy would refuse before we can."""


@gg.kernel(x=gg.f32[4])
def features(x):
    return {"rms": np.sqrt(np.mean(x * x)), "wave": x}


@gg.kernel(f=features, state={"on": False})
def tripped(f, s):
    on = s.on | (f.rms > 1)
    return {"trip": on, "rms": f.rms}, True, {"on": on}


@gg.kernel(x=gg.f32[4])
def numbered(x):
    return {"seq": x[0]}


def start(keep_in=(), **frame):
    flow = gg.Flow("t")
    return flow, flow.source("frames", gg.Frame(4, **frame), every="20ms", keep_in=keep_in)


def seen():
    return start()[1].map(features)


def minutes(by="origin"):
    return seen().window("1min", by=by).aggregate(rms=gg.mean("rms"))


def foreign():
    return gg.Flow("u").source("frames", gg.Frame(4), every="1s")


def around(trigger_of):
    stream = seen()
    return stream.around(trigger_of(stream), before="1s", after="1s")


def thousand_and_one():
    flow, frames = start()
    for i in range(1000):
        frames.sink(f"sink{i}")
    return flow


def open_flow(build_it):
    flow, frames = start()
    build_it(frames)
    return flow.spec()


WRONG = [
    ("flow.name", lambda: gg.Flow("Feeder")),
    ("flow.name", lambda: gg.Flow("")),
    ("flow.name", lambda: gg.Flow("a" * 42)),
    ("flow.rate", lambda: gg.Flow("t").source("a", gg.Frame(), every="99us")),
    ("flow.rate", lambda: gg.Flow("t").source("a", gg.Frame(), every="0s")),
    ("unit.duration", lambda: gg.Flow("t").source("a", gg.Frame(), every=NUMBER)),
    ("unit.duration", lambda: gg.Flow("t").source("a", gg.Frame(), every="soon")),
    ("schema.shape", lambda: gg.Flow("t").source("a", LOOSE.f32[4], every="1s")),
    ("schema.shape", lambda: gg.Frame(0)),
    ("schema.shape", lambda: LOOSE.Frame(2.5)),
    ("schema.shape", lambda: gg.Frame(3, unit=("V", "A"))),
    ("schema.shape", lambda: gg.Frame(unit=("V", "A"))),
    ("schema.dtype", lambda: gg.Frame(3, dtype="u8")),
    ("schema.scale", lambda: start(scale=(1, 2))),
    ("schema.scale", lambda: start(scale=float("nan"))),
    ("flow.stage-id", lambda: gg.Flow("t").source("tick", gg.Frame(), every="1s")),
    ("flow.stage-id", lambda: gg.Flow("t").source("all", gg.Frame(), every="1s")),
    ("flow.stage-id", lambda: gg.Flow("t").source("A", gg.Frame(), every="1s")),
    ("flow.stage-id", lambda: seen().map(tripped, id="Trip!")),
    ("flow.stage-id", lambda: seen().map(tripped, id="frames")),
    ("flow.stage-id", lambda: seen().sink("features")),
    ("flow.stage-id", thousand_and_one),
    ("flow.label", lambda: start(keep_in="Germany")),
    ("flow.label", lambda: start(keep_in=("de",))),
    ("flow.label", lambda: gg.Labels(origin="DE", categories={"secret"})),
    ("flow.label", lambda: start(("DE",))[1].map(features, keep_in=("FR",))),
    ("flow.kernel", lambda: start()[1].map(lambda x: x)),
    ("flow.kernel", lambda: start()[1].map(np.sqrt)),
    ("flow.kernel-input", lambda: start()[1].map(tripped)),
    ("flow.kernel-input", lambda: seen().map(features)),
    ("flow.kernel-input", lambda: start(dtype="i16")[1].map(features)),
    ("flow.kernel-input", lambda: gg.Flow("t").source("a", gg.Frame(5), every="1s").map(features)),
    ("flow.tier", lambda: seen().map(tripped, on=("moon",))),
    ("flow.tier", lambda: seen().where(lambda t: t.rms > 1, on="edge")),
    ("flow.selectivity", lambda: seen().where(lambda t: t.rms > 1, selectivity=0)),
    ("flow.selectivity", lambda: seen().where(lambda t: t.rms > 1, selectivity=1.1)),
    ("flow.selectivity", lambda: seen().where(lambda t: t.rms > 1, selectivity=float("nan"))),
    ("flow.predicate", lambda: seen().where(lambda t: t.rms > 1 and t.rms < 2)),
    ("schema.unknown-field", lambda: seen().where(lambda t: t.trip)),
    ("flow.around", lambda: around(lambda _: foreign())),
    ("flow.around", lambda: around(lambda stream: stream)),
    ("flow.around", lambda: around(lambda _: features)),
    ("flow.around", lambda: around(lambda stream: stream.window("1s").aggregate(n=gg.count()))),
    ("flow.around", lambda: around(lambda stream: build.Stream(stream.flow, stream.flow.stages[0]))),
    ("flow.window", lambda: seen().window("999us")),
    ("flow.window", lambda: seen().window("1s", by="key")),
    ("flow.aggregate", lambda: seen().window("1s").aggregate()),
    ("flow.aggregate", lambda: seen().window("1s").aggregate(rms="mean")),
    ("flow.aggregate", lambda: seen().window("1s").aggregate(rms=gg.mean)),
    ("flow.aggregate", lambda: seen().window("1s").aggregate(rms=Aggregate("", "median", "rms"))),
    ("flow.aggregate", lambda: seen().window("1s").aggregate(wave=gg.max("wave"))),
    ("schema.unknown-field", lambda: seen().window("1s").aggregate(rms=gg.mean("rmz"))),
    ("schema.fields", lambda: seen().window("1s").aggregate(rows=gg.count())),
    ("schema.fields", lambda: seen().window("1s").aggregate(a=gg.mean("rms"), a_sum=gg.sum("rms"))),
    ("flow.rollup", lambda: seen().rollup()),
    ("flow.rollup", lambda: minutes("all").rollup()),
    ("flow.rollup", lambda: minutes().rollup().rollup(id="again")),
    ("flow.act", lambda: seen().act("Breaker", "open", within="20ms")),
    ("flow.act", lambda: seen().act("breaker", "", within="20ms")),
    ("flow.act", lambda: seen().act("breaker", "open", within="0ms")),
    ("flow.act", lambda: minutes().rollup().act("breaker", "open", within="20ms")),
    ("flow.act", lambda: minutes("all").where(lambda t: t.rms > 1).act("breaker", "open", within="1s")),
    ("flow.backlog", lambda: seen().backlog(when_full="drop")),
    ("flow.backlog", lambda: seen().backlog(budget="1KB")),
    ("unit.size", lambda: seen().backlog(budget="much")),
    ("flow.sink", lambda: seen().sink("kept", at="device")),
    ("flow.sink", lambda: seen().sink("kept", at="moon")),
    (
        "flow.sink-field",
        lambda: start()[1].map(numbered).sink("kept"),
    ),
    ("flow.open", lambda: open_flow(lambda frames: frames.map(features))),
    ("flow.open", lambda: open_flow(lambda _: None)),
    ("flow.open", lambda: gg.Flow("t").spec()),
    ("flow.unknown-stage", lambda: open_flow(lambda frames: frames.sink("kept"))["keep"]),
]


@pytest.mark.parametrize("code, use", WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)])
def test_wrong_use_fails_at_once_with_what_why_and_next(code, use):
    with pytest.raises(GanglionError) as caught:
        use()
    error = caught.value
    assert error.code == code
    assert error.what
    assert error.why
    assert error.next_step
    assert len(str(error)) < 600


def test_every_code_of_the_package_is_provoked_here():
    """flow.missing, flow.code and flow.changed belong to test_load.py, assignment.form to test_assignment.py."""
    folder = Path(flow_package.__file__).parent
    constants = {
        node.value
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    codes = {c for c in constants if c.startswith("flow.") and c.replace(".", "").replace("-", "").isalpha()}
    assert codes - {"flow.py"} == {c for c, _ in WRONG if c.startswith("flow.")} | {
        "flow.missing",
        "flow.code",
        "flow.changed",
    }


def test_a_source_of_rows_has_fields_that_stages_see():
    flow = gg.Flow("t")
    rows = flow.source("rows", gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"}), every="10ms")
    assert [(f.name, str(f.type), f.unit) for f in rows.schema.fields] == [
        ("temp", "f32", "degC"),
        ("q", "i32", ""),
    ]
    good = rows.where(lambda r: r.q == 0)
    good.window("1s").aggregate(mean=gg.mean("temp")).sink("means", at="gateway")
    assert "source of temp: f32 [degC], q: i32 every 10ms" in flow.spec().diagram()


@pytest.mark.parametrize(
    "make, code",
    [
        (gg.Row, "schema.fields"),
        (lambda: gg.Row(temp=gg.f32[3]), "schema.shape"),
        (lambda: gg.Row(temp=float), "schema.shape"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: gg.Row(Temp=gg.f32), "schema.field-name"),
        (lambda: gg.Row(temp=gg.f32, units={"tmp": "degC"}), "schema.unknown-field"),
        (lambda: gg.Flow("t").source("rows", gg.f32, every="1s"), "schema.shape"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_rows_that_cannot_be_are_refused(make, code):
    with pytest.raises(FlowError) as caught:
        make()
    assert caught.value.code == code
    assert caught.value.next_step


def test_a_failed_use_leaves_the_flow_as_it_was():
    flow, frames = start()
    frames.map(features)
    before = flow.stages
    for _, wrong in [(0, lambda: frames.map(features)), (1, lambda: frames.map(tripped))]:
        with pytest.raises(FlowError):
            wrong()
    assert flow.stages == before


@pytest.mark.parametrize(
    "first, then, kept",
    [
        ((), (), None),
        ((), ("DE",), ("DE",)),
        (("DE", "FR"), (), ("DE", "FR")),
        (("DE", "FR"), ("FR", "US"), ("FR",)),
        (("DE", "FR"), "FR", ("FR",)),
        (("DE",), ("DE-BY",), ("DE-BY",)),
        (("DE-BY",), ("DE", "FR"), ("DE-BY",)),
        (("EU",), ("EU",), ("EU",)),
    ],
)
def test_places_are_inherited_and_can_only_be_narrowed(first, then, kept):
    _, frames = start(first)
    mapped = frames.map(features, keep_in=then)
    assert mapped.stage.constraint.jurisdictions == kept
    later = mapped.where(lambda t: t.rms > 1)
    window = mapped.window("1s").aggregate(rms=gg.mean("rms"))
    later.act("breaker", "open", within="20ms")
    window.sink("kept", at="edge")
    for stream in (later, window, window.rollup(), later.window("1s").aggregate(n=gg.count(), id="n")):
        assert stream.stage.constraint.jurisdictions == kept
    spec = {s.id: s for s in frames.flow.stages}
    assert spec["breaker_open"].constraint == Constraint(("device", "gateway"), kept)
    assert spec["kept"].constraint == Constraint(("edge",), kept)


def test_frames_around_a_trigger_stay_where_the_trigger_must_stay():
    _, frames = start(("DE", "FR"))
    trips = frames.map(features, keep_in=("FR",)).where(lambda t: t.rms > 1)
    incident = frames.around(trips, before="100ms", after="200ms")
    assert incident.stage.constraint.jurisdictions == ("FR",)
    assert (incident.stage.before_ns, incident.stage.after_ns) == (100_000_000, 200_000_000)
    assert incident.schema == frames.schema
    assert incident.stage.inputs == ("frames", trips.id)


def test_labels_ride_along_and_join():
    flow = gg.Flow("t")
    labels = gg.Labels(origin="DE", categories={"location"})
    frames = flow.source("frames", gg.Frame(4), every="1s", labels=labels)
    rows = frames.map(features)
    around = frames.around(rows.where(lambda t: t.rms > 1), before="1s", after="1s")
    rows.act("breaker", "open", within="1s")
    around.sink("kept")
    rows.window("1s").aggregate(n=gg.count()).rollup().sink("sums")
    assert {s.labels for s in flow.spec().stages} == {labels}


def test_stages_without_constraints_may_run_anywhere():
    assert seen().stage.constraint is ANYWHERE
    assert seen().where(lambda t: t.rms > 1, on=("cloud",)).stage.constraint == Constraint(("cloud",))


def test_ids_follow_from_names_and_can_be_given():
    rows = seen()
    assert rows.id == "features"
    assert rows.where(lambda t: t.rms > 1).id == "features_where"
    window = rows.window("1s").aggregate(n=gg.count())
    assert (window.id, window.rollup().id) == ("features_window", "features_window_rollup")
    rows.act("main-breaker", "trip-now", within="1s")
    assert rows.flow.stages[-1].id == "main_breaker_trip_now"
    assert rows.map(tripped, id="other").id == "other"


def test_a_window_has_partials_for_what_it_computes():
    window = (
        seen()
        .window("1min", lag_max="5s", keep="3d")
        .aggregate(
            n=gg.count(), m=gg.mean("rms"), d=gg.std("rms"), s=gg.sum("rms"), a=gg.min("rms"), b=gg.max("rms")
        )
        .stage
    )
    assert isinstance(window, WindowStage)
    assert window.schema.names == (
        *("start_ns", "revision", "rows"),
        *("n", "m", "m_sum", "d", "d_sum", "d_squares", "s", "a", "b"),
    )
    assert (window.width_ns, window.lag_max_ns, window.keep_ns) == (60 * 10**9, 5 * 10**9, 3 * 86_400 * 10**9)
    assert (window.by, window.merges) == ("origin", False)


def test_a_rollup_merges_what_the_window_gives():
    window = minutes()
    rollup = window.rollup().stage
    assert isinstance(rollup, WindowStage)
    assert isinstance(window.stage, WindowStage)
    assert (rollup.by, rollup.merges, rollup.schema) == ("all", True, window.schema)
    assert (rollup.width_ns, rollup.aggregates) == (window.stage.width_ns, window.stage.aggregates)
    assert rollup.lag_max_ns == window.stage.lag_max_ns + window.stage.width_ns


def test_units_reach_the_aggregates():
    @gg.kernel(x=gg.f32[4], units={"rms": "A"})
    def measured(x):
        return {"rms": np.max(x)}

    window = start()[1].map(measured).window("1s").aggregate(rms=gg.mean("rms"), n=gg.count())
    assert (window.schema["rms"].unit, window.schema["n"].unit) == ("A", "")


def test_a_scaled_source_is_seen_by_a_kernel_in_its_unit():
    _, frames = start(dtype="i16", scale=0.5)
    assert frames.map(features).schema["rms"].type == gg.f32


def test_frames_say_how_they_are_stored():
    frame = gg.Frame(2, 3, dtype="i16", unit=("V", "A"), scale=(0.5, 1))
    assert (str(frame.type), frame.unit, frame.scale) == ("i16[2, 3]", "V,A", (0.5, 1.0))
    assert (gg.Frame().type, gg.Frame(scale=2).scale) == (gg.f32, (2.0,))
    with pytest.raises(FrozenInstanceError):
        setattr(frame, "unit", "A")  # noqa: B010 # mypy knows that it is frozen


def test_a_long_flow_is_built_in_order():
    flow, stream = start()
    for i in range(100):
        stream = stream.map(copied, id=f"m{i}")
    stream.sink("kept")
    assert len(flow.spec().chain("kept")) == 102


@gg.kernel(x=gg.f32[4])
def copied(x):
    return {"frame": x}


def test_a_stream_says_how_its_rows_wait():
    flow, frames = start()
    patient = FlowSpec("t", flow.stages).digest
    stream = frames.backlog(urgent=True, budget="64MB", when_full="keep-newest")
    assert stream.stage.backlog == Backlog(True, 64_000_000, "keep-newest")
    spec = FlowSpec("t", flow.stages)
    assert spec.urgent == {frames.id}
    assert spec.digest != patient
    assert '"when_full": "keep-newest"' in spec.dumps()
    assert stream.map(features).stage.backlog == Backlog(), "what is made of it waits as it says itself"
