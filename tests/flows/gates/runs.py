"""The data half of the job, with a gate before each shard; in worker processes, where the configuration has several."""

import os

from flows.prepare_corpus import prepare_corpus
from tasks import computing
from tests.flows.gates.tokenization import tokenize_when_allowed

__all__ = ["prepare_corpus"]

if "CPT_TEST_GATES" in os.environ:  # whoever registers the deployment imports this file too
    computing.tokenize_shard = tokenize_when_allowed
    computing.PROCESSES_PAY_FROM_BYTES = int(os.environ["CPT_TEST_PROCESSES_PAY_FROM_BYTES"])
