"""The prediction log: what was answered, on disk before (or, buffered, at most a second after) the answer leaves.

    <day>T<time>-<pid>-<random>.jsonl   segments: one process each appends to its own, one line for each request
    <day>.parquet                       compacted days: what the segments of that day held, one row for each prediction

A segment keeps its name from its first byte to its removal. Its writer holds an `flock` on it, so that a segment
without one is finished, whatever ended its process. A day's Parquet names the segments that it holds, and readers
leave these out: there is no moment at which a record is there twice or not at all. See docs/decisions/0022.
"""

from churn.stores.prediction_log.writers import BufferedPredictionLog, PredictionLog

__all__ = ["BufferedPredictionLog", "PredictionLog"]
