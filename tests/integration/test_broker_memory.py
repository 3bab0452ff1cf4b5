"""What the broker holds is what is in flight, however large the job is."""

import random
import string

from tests.fleet import FleetDesk

BATCHES = 1_000
IN_FLIGHT_BATCHES = 32
#: Letters drawn at random: a payload is as large as three quarters of them.
TEXT_CHARS = 16_000
SEVERAL_SECONDS = 240.0
INSTANT = ("-m", "tests.benchmarks.instant_worker")
MIB = 2**20


def write_large_input(fleet: FleetDesk) -> None:
    draw = random.Random(7)  # noqa: S311  it draws no secrets
    fleet.desk.write(
        [
            {
                "id": str(number),
                "question": "Which word is first?",
                "context": "First " + "".join(draw.choices(string.ascii_letters, k=TEXT_CHARS)),
            }
            for number in range(BATCHES)
        ]
    )


def test_the_brokers_memory_is_bounded_by_what_is_in_flight(fleet: FleetDesk) -> None:
    write_large_input(fleet)
    fleet.start_worker("--processes", "2", program=INSTANT)
    before = fleet.server.client.info("memory")
    assert before["used_memory_peak"] < 2 * before["used_memory"]
    bound = ["--in-flight-batches", IN_FLIGHT_BATCHES]
    submitted = fleet.start("--batch-rows", "1", *bound, "--json")
    submitted.process.wait(SEVERAL_SECONDS)
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert ran.json()["rows"] == BATCHES
    written = fleet.server.client.info("stats")["total_net_input_bytes"]
    assert written > BATCHES * TEXT_CHARS / 2  # all payloads came by
    after = fleet.server.client.info("memory")
    assert after["used_memory_peak"] - before["used_memory"] < 2 * MIB
    assert after["used_memory"] - before["used_memory"] < MIB
    assert fleet.server.client.dbsize() < BATCHES / 10  # no batch leaves a key behind
