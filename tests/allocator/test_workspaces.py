"""Where workspaces lie among a trace's events: by hand, and in a real trace."""

from __future__ import annotations

from memprof.allocator.scratch import CUBLAS, EMBEDDING, FLASH, SM80, Shapes, cublas_workspace, flash_backward
from memprof.allocator.workspaces import SCRATCH, Workspaces, weave
from memprof.catalogue import get_method
from memprof.ledger import Ledger
from memprof.scenario import Scenario
from memprof.shapes import get_shape
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER, Timeline
from memprof.trace import watch

FLASH_BACKWARD = "aten::_scaled_dot_product_flash_attention_backward"
SHAPES = Shapes(batch=40, seq_len=128, heads=4, kv_heads=4, head_dim=32, hidden=128, vocab=500, itemsize=2)


def test_without_workspaces_nothing_is_added() -> None:
    timeline = Timeline()
    timeline.free(timeline.allocate(5, "aten::mm"))
    woven = weave(timeline, None)
    assert (woven.events, woven.nbytes, woven.positions) == ([0, ~0], [5], [0, 1])
    assert (woven.position(1), woven.position(2), woven.workspaces_at(2)) == (1, 2, {})


def test_each_thread_gets_its_cublas_workspace_once_and_for_good() -> None:
    """The main thread's lies behind its first product, also where the optimizer multiplies; autograd has its own."""
    timeline = Timeline()
    for phase in (FORWARD, OPTIMIZER, BACKWARD, OPTIMIZER, FORWARD, BACKWARD):
        timeline.mark(phase)
        timeline.allocate(1, "aten::add")
        timeline.allocate(1, "aten::mm")
        timeline.allocate(1, "aten::addmm")
    woven = weave(timeline, Workspaces(SM80))
    workspaces = [event for event in woven.events if event >= woven.own]
    assert [woven.nbytes[block] for block in workspaces] == [cublas_workspace(SM80)] * 2
    assert [woven.events.index(block) for block in workspaces] == [2, 9]
    assert woven.workspaces_at(9) == {CUBLAS: 8_519_680}
    assert woven.workspaces_at(len(woven.events)) == {CUBLAS: 2 * 8_519_680}


def test_a_kernels_temporaries_come_after_its_results_and_are_gone_at_its_end() -> None:
    timeline = Timeline()
    timeline.mark(BACKWARD)
    for _ in range(2):
        gradients = [timeline.allocate(10, FLASH_BACKWARD) for _ in range(3)]
        for block in gradients:
            timeline.free(block)
    woven = weave(timeline, Workspaces(shapes=SHAPES))
    d, dq = woven.own, woven.own + 1
    assert woven.events[:10] == [0, 1, 2, d, dq, ~dq, ~d, ~0, ~1, ~2]
    assert woven.events[10:14] == [3, 4, 5, woven.own + 2]
    assert [woven.nbytes[block] for block in (d, dq)] == flash_backward(Workspaces().gpu, SHAPES).taken.nbytes
    assert woven.workspaces_at(5) == {FLASH: sum(woven.nbytes[d : dq + 1])}
    assert woven.positions == [0, 1, 2, 7, 8, 9, 10, 11, 12, 17, 18, 19], "an event comes with what belongs to it"


def test_an_embeddings_tokens_are_sorted_before_its_gradient_is_there() -> None:
    timeline = Timeline()
    timeline.mark(BACKWARD)
    timeline.allocate(10, "aten::embedding_dense_backward")
    woven = weave(timeline, Workspaces(shapes=SHAPES))
    assert woven.events.index(0) == 4 and woven.positions == [0]
    assert woven.workspaces_at(len(woven.events)) == {}
    assert list(woven.workspaces_at(len(woven.events) // 2)) == [EMBEDDING]


def test_every_operator_of_a_real_trace_is_met() -> None:
    """Both kernels: each call of attention and embedding has its temporaries, and all of them are given back."""
    for kernels, dtype in (("cuda-flash", "bf16"), ("cuda-efficient", "fp32")):
        shape = get_shape("9m", num_layers=2, num_key_value_heads=2)
        scenario = Scenario(
            model="9m", shape=shape, method=get_method("adamw"), batch_size=16, dtype=dtype, kernels=kernels
        )
        timeline = watch(scenario, Ledger).step.timeline
        workspaces = Workspaces(shapes=Shapes.of(scenario))
        woven = weave(timeline, workspaces)
        made = [event for event in woven.events if event >= woven.own]
        steps = sum(phase == BACKWARD for _, phase in timeline.phases)
        expected = 2 * [cublas_workspace(workspaces.gpu)]
        for maker, scratch in workspaces.scratch().items():
            if maker in timeline.maker:
                calls = steps * (1 if "embedding" in maker else shape.num_hidden_layers)
                expected += calls * scratch.taken.nbytes
        assert sorted(woven.nbytes[block] for block in made) == sorted(expected)
        assert sum(maker in timeline.maker for maker in SCRATCH) == 3
        assert woven.workspaces_at(len(woven.events)) == {CUBLAS: 2 * cublas_workspace(workspaces.gpu)}
        assert [event for event in woven.events if -woven.own <= event < woven.own] == timeline.events
