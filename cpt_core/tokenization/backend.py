"""Which engine encodes.

In: the tokenizer, the configuration, the size of the corpus, the verdict that the store remembers.
Out: the tokenizer with its engine chosen, and why.
Promise: gigatoken only where it was shown to give the ids of the tokenizers library for this very tokenizer.
Never: changes a result: all engines give the same ids, so the choice is in no key.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError, WorkerError
from cpt_core.storage import Store
from cpt_core.tokenization.engine import GIGATOKEN, HUGGINGFACE
from cpt_core.tokenization.parity import Verdict, check_parity, recall_verdict, remember_verdict
from cpt_core.tokenization.tokenizer import TextTokenizer, read_tokenizer_file
from cpt_core.workers import WorkerPool

CHECK_PAYS_FROM_BYTES = 64_000_000
"""The check encodes a few million short texts with the reference, which takes it as long as this much corpus."""
CHECK_PROCESSES = 2
"""The check takes half the time; what more of them would gain is less than they would hold in memory."""
_SILENCE_SECONDS = 600.0


def choose_backend(
    tokenizer: TextTokenizer, config: TokenizationConfig, corpus_size_bytes: int, *, store: Store
) -> TextTokenizer:
    """The tokenizer with the engine that encodes this corpus.

    Raises:
        ConfigError: when gigatoken is demanded for a tokenizer for which it gives other ids.
    """
    reference = replace(tokenizer, backend=HUGGINGFACE)
    if config.backend == HUGGINGFACE:
        return replace(reference, backend_reason="chosen by tokenization.backend")
    digest = tokenizer.identity["tokenizer_json_sha256"]
    verdict = recall_verdict(store, digest)
    if verdict is None:
        if config.backend == "auto" and corpus_size_bytes < CHECK_PAYS_FROM_BYTES:
            return replace(reference, backend_reason="the corpus is too small for the check of gigatoken to pay")
        try:
            verdict = check_in_processes(read_tokenizer_file(tokenizer.file))
            remember_verdict(store, digest, verdict)
        except WorkerError as error:  # its cause may lie in the machine: nothing to remember
            verdict = Verdict(False, f"the check of it came to no end: {error}")
    if verdict.is_trusted:
        return replace(tokenizer, backend=GIGATOKEN, backend_reason=verdict.reason)
    if config.backend == GIGATOKEN:
        raise ConfigError(
            f"tokenization.backend: gigatoken is refused for {tokenizer.file}: {verdict.reason}; "
            "use auto or huggingface"
        )
    return replace(reference, backend_reason=f"not gigatoken: {verdict.reason}")


def check_in_processes(tokenizer_json: bytes) -> Verdict:
    """The check, by processes of its own: the memory that it takes ends with them, and so does a crash."""
    with WorkerPool(CHECK_PROCESSES, silence_seconds=_SILENCE_SECONDS) as pool:

        def check(part: int) -> Verdict:
            probes = {"tokenizer_json": tokenizer_json, "part": part, "parts": CHECK_PROCESSES}
            return pool.call(check_parity, probes, on_progress=lambda _: None)

        with ThreadPoolExecutor(CHECK_PROCESSES) as threads:
            verdicts = list(threads.map(check, range(CHECK_PROCESSES)))
    return next((verdict for verdict in verdicts if not verdict.is_trusted), verdicts[0])
