"""Claims on a real S3 server."""

from cpt_core.claims import FOLDER, OWNERS, Claims
from cpt_core.storage import Store


def test_one_of_two_runs_has_a_claim_and_nothing_is_left(base):
    """The other has it when the first is done."""
    store = Store(f"s3://{base}")
    with Claims(store) as first, Claims(store) as second:
        with first._held("a") as of_first, second._held("a") as of_second:
            assert (of_first, of_second) == (True, False)
        with second._held("a") as of_second:
            assert of_second
    left = [f"{FOLDER}/a", *(f"{OWNERS}/{claims._owner}" for claims in (first, second))]
    assert [store.size_bytes(name) for name in left] == [None, None, None]
