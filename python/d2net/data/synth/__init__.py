"""Made-up features and annotations: the demo's small set, and sets of any size that resemble given ones."""

from d2net.data.synth.demo import FPS as FPS
from d2net.data.synth.demo import STRIDE as STRIDE
from d2net.data.synth.demo import Synthetic as Synthetic
from d2net.data.synth.demo import make_synthetic as make_synthetic
from d2net.data.synth.demo import write_synthetic as write_synthetic
from d2net.data.synth.features import Look as Look
from d2net.data.synth.features import SyntheticFeatures as SyntheticFeatures
from d2net.data.synth.timelines import PROFILES as PROFILES
from d2net.data.synth.timelines import Donors as Donors
from d2net.data.synth.timelines import Profile as Profile
from d2net.data.synth.writing import write_synthetic_set as write_synthetic_set
