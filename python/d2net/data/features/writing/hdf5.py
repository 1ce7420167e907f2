"""HDF5, a dataset a video, whose data are filled in later."""

from __future__ import annotations

from pathlib import Path

from d2net.data.features.hdf5 import Hdf5Features
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.writing.plan import TYPES, OneFile, Plan


class Hdf5Writer(OneFile):
    def __init__(self, path: Path, plan: Plan):
        super().__init__(path, plan)
        try:
            import h5py
        except ImportError as error:
            raise FeatureError(f"{path}: writing HDF5 needs the package h5py; pip install h5py") from error
        self.h5py = h5py

    def lay_out(self) -> None:
        h5 = self.h5py
        # Space for the data is given at once and left as it is: a stopped run leaves a sound file.
        how = h5.h5p.create(h5.h5p.DATASET_CREATE)
        how.set_alloc_time(h5.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5.h5d.FILL_TIME_NEVER)
        with h5.File(self.path, "w") as file:
            file.attrs.update(self.plan.timing)
            for i, name in enumerate(self.plan.names):
                shape, dtype = (self.plan.lengths[i], self.plan.width), TYPES[self.plan.dtypes[i]]
                try:
                    file.create_dataset(name, shape, dtype, dcpl=how)
                except (ValueError, TypeError, KeyError, OSError) as error:
                    text = f"HDF5 cannot hold a video called {name!r} ({error}); rename it, or write another format"
                    raise FeatureError(f"{self.path}: {text}") from error
        self.check()

    def __enter__(self) -> OneFile:
        with self.h5py.File(self.path, "r") as file:
            self.offsets = [file[name].id.get_offset() for name in self.plan.names]
        return super().__enter__()

    def open(self) -> FeatureStore:
        return Hdf5Features(self.path)
