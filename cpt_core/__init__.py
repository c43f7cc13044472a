"""The library of the continued-pretraining pipeline. No Prefect, no global state.

Data flows one way, and each arrow is an artifact in the store::

    discovery -> tokenization -> indexing -> packing -> training -> evaluation
       shards    token shards     document     packed    checkpoints    losses
                                   index       shards    and a model

Ground floor, each standing only on those before it: ``errors``; ``config``, ``fingerprint``, ``schemas``,
``permutation``; ``storage``; ``artifacts``; ``packed_rows``; ``launching``. The stages stand on it and never
import each other. Every stage has one shape: ``verb(artifact, config, *, store) -> artifact``.
"""
