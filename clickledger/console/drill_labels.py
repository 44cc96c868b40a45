"""The fault of the drill `missing-labels`: a label feed that fails more and more, seen by a guard, and overridden.

Labels of the evening were missing on working days all along, which a guard that compares weeks cannot see; lately they
are missing on weekends as well, which it can. The set is judged by the guards of the daily training, and so is the same
set with all its labels, for comparison.
"""

from __future__ import annotations

from typing import Any

from clickledger.console import output
from clickledger.console.demo_scene import Scene
from clickledger.console.demo_story import Story
from clickledger.errors import Refused
from clickledger.ledger import deployments, log
from clickledger.scoring import guardrails, labels, learn
from clickledger.scoring.guardrails import Guarding
from clickledger.scoring.recipe import Recipe

SECOND = "drill-second"  # person, who overrides
DENSITY = "human_density"


def as_daily(scene: Scene) -> dict[str, Any]:
    """How the daily loop labels a history as of its end, for `learn`."""
    return {"label_cutoff_ms": scene.clicks[scene.history_end - 1].event_time_ms, "rules": labels.DAILY}


def refuse_and_override(story: Story, actor: str) -> tuple[int, int]:
    """Have the guards refuse the set, and train on it all the same; model and calibration.

    Raises Refused unless it is the missing labels that the guards refuse the set for.
    """
    before = deployments.current(story.conn).epoch
    with story.act(f"the fault: a model {story.scene.fault}"):
        entry = _refused(story, actor)
        sound = _refusing_all_labels(story)
        if DENSITY in sound or DENSITY not in entry.payload["refusing"]:
            raise Refused(f"{DENSITY}: expected it to refuse the set without the labels only: more --history")
        story.facts |= {
            "refused_position": entry.position,
            "refused_by": entry.payload["refusing"],
            "refused_by_with_all_labels": sound,
            "evidence": next(found for found in entry.payload["findings"] if found["guard"] == DENSITY),
            "deployed_while_refused": deployments.current(story.conn).epoch - before,
        }
    with story.act(f"{SECOND} overrides the refusal, and {actor} trains on the set all the same"):
        given = guardrails.override(story.conn, entry.position, actor=SECOND, reason="the shop was closed, we think")
        learned = _learn(story, actor, Guarding(overridden=given.position))
    return learned.model_version, learned.calibration_version


def _refused(story: Story, actor: str) -> log.Entry:
    try:
        _learn(story, actor, guardrails.DEFAULT_GUARDING)
    except Refused as refused:
        output.say(f"    {refused}")
    else:
        raise Refused(f"{DENSITY}: expected the set to be refused, got a model: more --history")
    [*_, entry] = log.read(story.conn, kinds=["guardrail_refused"])
    return entry


def _learn(story: Story, actor: str, guarding: Guarding) -> learn.Learned:
    scene = story.scene
    return learn.learn(
        story.conn, actor=actor, reason=scene.fault, withheld=scene.withheld, guarding=guarding,
        up_to_position=story.history_position, **scene.learning, **as_daily(scene),
    )  # fmt: skip


def _refusing_all_labels(story: Story) -> list[str]:
    """The guards that would refuse the same set with all its labels; nothing is recorded."""
    recipe = Recipe(up_to_position=story.history_position, **as_daily(story.scene))
    material = learn.prepare(story.conn, recipe)
    evidence = guardrails.gather(story.conn, recipe, material.made, material.weights)
    return [found.guard for found in guardrails.check_dataset(evidence) if not found.passed]
