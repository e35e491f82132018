"""Tests of all but the agent's own calls, under any Python."""

import os
import sys

_HERE = os.path.dirname(__file__)
sys.path[:0] = [os.path.join(_HERE, "../src"), os.path.join(_HERE, "../../../guest-sdk/python")]
