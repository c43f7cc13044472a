"""The data stages with sources and store on S3; disturbed, they are one of the promises that ``tests.faults`` tries."""

from tests.pipeline import packed
from tests.s3_chaos import config_of, contents_of, local_contents, upload


def test_the_artifacts_on_s3_are_those_of_a_local_run(s3, base, tmp_path):
    """Same corpus, same configuration: the same names, keys, records and sha256; and a second run computes nothing."""
    corpus, tokenizer, expected = local_contents(tmp_path)
    upload(corpus, s3.client(), f"{base}/corpus")
    config = config_of(f"s3://{base}/corpus", f"s3://{base}/store", tokenizer)
    assert [artifact.is_cached for artifact in packed(config)] == [False]
    assert contents_of(s3.client(), f"s3://{base}/store") == expected
    assert len([name for name in expected if name.endswith("artifact.json")]) == 6
    assert [artifact.is_cached for artifact in packed(config)] == [True]
