"""What a message of several failures says."""

from cpt_core.errors import ShardsFailedError


def test_what_to_do_stands_once_for_all_shards_that_share_it():
    """Equal reasons stand once, too; a reason of its own is told as it is."""
    failures = {
        "a-00002": "/b.gz: gzip data is corrupt (CRC); nothing of it is used. Replace the file and run again",
        "a-00001": "/a.gz: gzip data is corrupt (EOF); nothing of it is used. Replace the file and run again",
        "a-00003": "/c: cannot be read: permission denied; give this user access",
        "b-00000": "s3://x: cannot be reached; check the network",
        "b-00001": "s3://x: cannot be reached; check the network",
        "b-00002": "stopped",
    }
    error = ShardsFailedError("tokenization", failures, "Then retry")
    assert str(error) == (
        "tokenization: 6 shard(s) failed, all others are committed. "
        "a-00001: /a.gz: gzip data is corrupt (EOF); nothing of it is used; "
        "a-00002: /b.gz: gzip data is corrupt (CRC); nothing of it is used. Replace the file and run again. "
        "a-00003: /c: cannot be read: permission denied; give this user access. "
        "b-00000, b-00001: s3://x: cannot be reached; check the network. "
        "b-00002: stopped. Then retry"
    )
    assert error.failures == failures
