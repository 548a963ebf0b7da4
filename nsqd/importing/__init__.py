"""Reading the data path of the original nsqd: `nsqd --import=PATH --data-path=NEW`.

Rules:

- The source is never changed: every file is opened for reading only, and a shared lock on the folder keeps the
  original from running there meanwhile (it takes an exclusive one).
- Nothing is lost or duplicated when the import is interrupted at any point: the same command continues it.
- Data that cannot be read is reported, counted and left in the source; everything else is imported.
- Memory is bounded, for queues of any size.

Theory of operation. In the original a topic has a queue of its own, for messages that its channels have not been given
yet, and each channel has another one with copies. Here a topic is one log, and a channel is the set of sequence numbers
that it no longer needs. So the queues are written into the topic's log one after the other:

    | queue of channel a | queue of channel b | ... | the topic's own queue
    0                    start of b                 high watermark          end of the log

A channel is created at the seq where its queue begins, and has finished everything between the end of its queue and the
high watermark: its own queue remains. Messages at or above the high watermark are given to channels by the broker: at
once to all existing ones, or to the first one that is created, or once the topic is unpaused. A message that was
delivered before awaits redelivery, with its attempts. These are the records that the broker itself writes: an imported
topic is one like any other.

Interruption. A topic is written into a folder under a temporary name, synced, and then renamed: it exists completely or
not at all. The journal, `nsqd.import`, is written before the first topic. It identifies the source by the names, sizes
and times of its files: a source that has changed since is refused. While the journal is not complete, nsqd does not
start; afterwards the journal stays, so that the same import cannot be done twice.

Ids. An imported message keeps its id. The ids of this nsqd consist of ten bits of its node id and a counter, those of
the original begin with the time; they can be equal only if the time happens to begin with the node id. The journal has
the highest imported ids, and `prepare_start` advances the counter past those that begin with the daemon's node id.

    source.py       the folder: topics, channels and their files
    disk_queue.py   one queue: its messages from the read position on, skipping damage
    recent.py       the messages read last, to omit duplicates
    topic.py        one topic: its queues into one log
    journal.py      the progress of the import, and its effect on a start
    run.py          the whole import, and the command
"""

from nsqd.importing.journal import ImportRefused, prepare_start
from nsqd.importing.run import ImportOptions, Outcome, import_data_path, run_import

__all__ = ["ImportOptions", "ImportRefused", "Outcome", "import_data_path", "prepare_start", "run_import"]
