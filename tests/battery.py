"""The methods, and settings of theirs, that every test of the battery goes through."""

from __future__ import annotations

import pytest
import torch

from memprof.catalogue import METHODS

EXACT = ("param", "grad", "optimizer_state", "activation", "steady", "peak_phase")
VARIANTS = (
    "galore:side=reverse_std",
    "galore:side=left",
    "galore:side=right",
    "galore:side=full",
    "galore:inner=adafactor",
    "galore:inner=adafactor,beta1=0.9,side=full",
    "galore:inner=adamw-8bit",
    "galore:per_layer=true",
    "galore:per_layer=true,side=full,inner=adafactor",
    "galore:per_layer=true,inner=adamw-8bit",
    "galore-ef:side=full",
    "galore-dynamics-ef:inner=adafactor,per_layer=true",
    "adamw:state_dtype=fp32",
    "adam-mini:partition=1.0",
    "adam-mini:partition=1.0,state_dtype=weights",
    "adam-mini:state_dtype=fp32",
    "sgd:momentum=0",
    "sgd:nesterov=true,weight_decay=0.001",
    "mora:grouping=sharing",
    "remora:grouping=rotation,prune_by=magnitude,prune=0.9",
    "loqt:iterations=0",
    "galore-mini:approach=1",
    "galore-mini:approach=2",
    "q-galore:inner=adamw,proj_bits=8,group_size=100",
    "q-galore:weight_bits=16,proj_bits=16",
    "grass:choice=replacement,reset=false",
    "grass:choice=no-replacement",
    "microadam:density=0.3,block=512,quant_block=1024",
    "adamem:side=full",
)
"""settings that change what a method stores or does: each goes through the battery as a method of its own"""
NAMES = (*METHODS, *VARIANTS)
every_method = pytest.mark.parametrize("name", NAMES)
CPU = torch.device("cpu")
