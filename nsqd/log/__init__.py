"""The topic log: segments, records, snapshots, recovery. Files and bytes only; see `docs/format.md`."""
