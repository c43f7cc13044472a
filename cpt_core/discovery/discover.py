"""The discovery stage: sources -> manifest.

In: the configured sources; the store, for the memory of files already identified.
Out: every shard of every source, in bytewise order.
Promise: two files with one basename are two shards; nothing is found twice; an unchanged file is not read again;
one unreadable file does not stop the others.
Never: treats an empty match as an empty corpus.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cpt_core.config import DiscoveryConfig, SourceConfig
from cpt_core.discovery.counting import Count, OnProgress
from cpt_core.discovery.identify import IdentifiedFile, identify_file, memory_key
from cpt_core.errors import ConfigError, InputError
from cpt_core.fingerprint import fingerprint, sealed_json, unsealed_json
from cpt_core.manifest import Manifest, Shard
from cpt_core.storage import FileStat, Store, expand

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_SUFFIX_LIST = ", ".join(SUFFIXES)


def discover_sources(
    config: DiscoveryConfig,
    shard_size_bytes: int,
    *,
    store: Store,
    workers: int = 0,
    on_progress: OnProgress = lambda progress: None,
) -> Manifest:
    """Find, cut and identify the input files.

    Args:
        config: the sources.
        shard_size_bytes: larger uncompressed line files are cut into ranges of about this size.
        store: holds the memory of files identified before.
        workers: files read at the same time; 0 means one for each core.
        on_progress: told how far this is: first in this thread, when the files are listed, then after each chunk and
            each file, from several threads.

    Raises:
        ConfigError: when a URI of a source matches no file; the message shows the resolved URI.
        InputError: when a folder cannot be listed, or what keeps a file from being read may pass by itself; the files
            that were read are remembered.
    """
    stats = {source.name: _list_files(source) for source in config.sources}
    memory_name = f"inputs/{fingerprint(memory_key(config, shard_size_bytes))[:16]}.json"
    memory = _recall(store, memory_name)
    all_stats = {stat.uri: stat for found in stats.values() for stat in found}
    unknown = [stat for stat in all_stats.values() if _known(memory, stat) is None]
    count = Count(all_stats.values(), unknown, on_progress)

    def identify(stat: FileStat) -> IdentifiedFile:
        file = identify_file(stat, config.fingerprint_inputs, shard_size_bytes, partial(count.read, stat))
        count.finish(stat)
        return file

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        fresh = list(pool.map(identify, unknown))
    memory |= {file.stat.uri: file for file in fresh}
    if any(file.problem is None for file in fresh):
        _remember(store, memory_name, memory)
    if passing := [file.problem for file in fresh if file.is_transient and file.problem]:
        raise InputError(passing[0], is_transient=True)
    shards = [
        shard
        for source in config.sources
        for shard in _shards_of(source, [memory[stat.uri] for stat in stats[source.name]])
    ]
    read_bytes = sum(stat.size_bytes for stat in unknown) if config.fingerprint_inputs == "content" else 0
    return Manifest(shards=tuple(shards), files=len(all_stats), bytes_read=read_bytes)


def list_sources(config: DiscoveryConfig) -> list[FileStat]:
    """Every input file as its file system lists it; no byte is read.

    Raises:
        ConfigError: when a URI of a source matches no file.
    """
    stats = {stat.uri: stat for source in config.sources for stat in _list_files(source)}
    return [stats[uri] for uri in sorted(stats, key=os.fsencode)]


def _list_files(source: SourceConfig) -> list[FileStat]:
    found: dict[str, FileStat] = {}
    for uri in source.uris:
        stats = expand(uri, SUFFIXES, follow_links=source.follow_links)
        if not stats:
            raise ConfigError(
                f"discovery.sources: {source.name}: {uri} matches no file; expected an existing file, a glob with a "
                f"match, or a directory that holds {_SUFFIX_LIST}. Globs are resolved from the current folder"
            )
        found |= {stat.uri: stat for stat in stats}
    return sorted(found.values(), key=lambda stat: os.fsencode(stat.uri))


def _shards_of(source: SourceConfig, files: list[IdentifiedFile]) -> list[Shard]:
    ranges = [(file, span) for file in files for span in file.ranges]
    return [
        Shard(
            source=source.name,
            ordinal=ordinal,
            uri=file.stat.uri,
            format=file.format,
            text_field=source.text_field,
            first_byte=span.first_byte,
            size_bytes=span.size_bytes,
            file_size_bytes=file.stat.size_bytes,
            first_line=span.first_line,
            identity=span.identity,
            problem=file.problem,
        )
        for ordinal, (file, span) in enumerate(ranges)
    ]


def _known(memory: dict[str, IdentifiedFile], stat: FileStat) -> IdentifiedFile | None:
    file = memory.get(stat.uri)
    return file if file is not None and stat.version and file.stat == stat else None


def _recall(store: Store, name: str) -> dict[str, IdentifiedFile]:
    try:
        values = unsealed_json(store.read_bytes(name))
        remembered = [IdentifiedFile.from_json(file) for file in values["files"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}  # a memory that is absent or damaged only costs a second reading
    return {file.stat.uri: file for file in remembered}


def _remember(store: Store, name: str, memory: dict[str, IdentifiedFile]) -> None:
    kept = [memory[uri].as_json() for uri in sorted(memory) if memory[uri].problem is None]
    store.replace(name, sealed_json({"files": kept}, indent=None))
