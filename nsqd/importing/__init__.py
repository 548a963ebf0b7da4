"""Reading the data path of the original nsqd: `nsqd --import=PATH --data-path=NEW`.

Rules:

- The source is never changed: every file is opened for reading only, and a shared lock on the folder keeps the
  original from running there meanwhile (it takes an exclusive one).
- Nothing is lost and nothing is doubled, wherever the import is interrupted: the same command goes on.
- What cannot be read is named, counted and left where it is; everything else is imported.
- Memory is bounded, whatever the size of a queue.

Theory of operation. In the original a topic has a queue of its own, for messages that its channels have not been given
yet, and each channel has another one with copies. Here a topic is one log, and a channel is the set of numbers that it
needs no more. So the queues are written into the topic's log one behind the other:

    | queue of channel a | queue of channel b | ... | the topic's own queue
    0                    number at which b starts   the mark                end of the log

A channel is created at the number where its queue begins, and has finished what lies between the end of its queue and
the mark: what is left is its own queue. What lies behind the mark belongs to whoever the broker gives it to: at once
all channels that are there, or the first one that comes, or nobody until the topic is unpaused. A message that was
delivered before is *parked* with its attempts. These are the records that the broker itself writes: an imported topic
is one like any other.

Interruption. A topic is written into a folder under a name that nobody reads, synced, and given its real name only
then: a topic is there whole, or not at all. The journal, `nsqd.import`, is in the data path from before the first topic
on. It knows the source by the names, sizes and times of its files: a source that has changed since is another one, and
is refused. While it says that the import is not complete, nsqd does not start; when it does, it stays, so that the
same import cannot be done twice.

Ids. An imported message keeps its id. The ids of this nsqd are ten bits of its node id and a counter, the original's
begin with the time; they can be the same only where the time happens to begin with the node id. The journal has the
highest imported ids, and `prepare_start` moves the counter behind those of the node id that the daemon runs with.

    source.py       the folder: which topics, channels and files there are
    disk_queue.py   one queue: its messages from the read position on, over damage
    recent.py       what was read last, to leave out what is there twice
    topic.py        one topic: its queues into one log
    journal.py      what has been done; what a start must know of it
    run.py          all of it in order, and the command
"""

from nsqd.importing.journal import ImportRefused, prepare_start
from nsqd.importing.run import ImportOptions, Outcome, import_data_path, run_import

__all__ = ["ImportOptions", "ImportRefused", "Outcome", "import_data_path", "prepare_start", "run_import"]
