"""Filters and names of levels (MQTT 5, section 4.7)."""

import pytest

from ganglion.connectors.mqtt.topics import Pattern, fill, filters


@pytest.mark.parametrize(
    "pattern, topic, named",
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", {}),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", {}),
        ("sport/#", "sport", {}),
        ("sport/tennis/+", "sport/tennis/player1", {}),
        ("sport/tennis/+", "sport/tennis/player1/ranking", None),
        ("sport/+", "sport", None),
        ("sport/+", "sport/", {}),
        ("+/+", "/finance", {}),
        ("/+", "/finance", {}),
        ("+", "/finance", None),
        ("#", "$SYS/monitor/Clients", None),
        ("+/monitor/Clients", "$SYS/monitor/Clients", None),
        ("$SYS/#", "$SYS/monitor", {}),
        ("a/{x}/b/{y}", "a/1/b/2 3", {"x": "1", "y": "2 3"}),
        ("a/{x}/#", "a/1", {"x": "1"}),
        ("a.b/{x}", "acb/1", None),
        ("{x}/#", "$SYS/1", None),
        ("a/{x}", "a/1\n2", {"x": "1\n2"}),
    ],
)
def test_as_in_the_standard(pattern, topic, named):
    assert Pattern(pattern).match(topic) == named


def test_subscriptions_name_each_filter_once():
    assert filters([("a/{x}", 0), ("a/{y}", 1), ("b", 0)]) == (("a/+", 1), ("b", 0))


def test_a_topic_is_filled_only_with_what_can_stand_there():
    assert fill("dev/{device}/{verb}", {"device": "a b", "verb": "on"}) == "dev/a b/on"
    for name in ("a/b", "+", "#", "\0"):
        assert fill("dev/{device}", {"device": name}) is None
    assert fill("dev/{other}", {"device": "a"}) is None
