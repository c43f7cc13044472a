"""The graph, read as prose, and the ``cpt`` command.

``continued_pretraining`` is the whole job, ``prepare_corpus`` its data half, ``train_model`` its training half;
``watch_sources`` starts them when there are new files.
"""
