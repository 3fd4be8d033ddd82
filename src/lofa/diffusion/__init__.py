"""Diffusion processes: what noise does to data, what a denoiser is to say of it, and which noise training draws."""

from lofa.diffusion.ddpm import Ddpm
from lofa.diffusion.draws import NoiseDraw, draw_noise, seeded_noise, stratified
from lofa.diffusion.flow_matching import FlowMatching
from lofa.diffusion.process import DiffusionProcess, per_sample

__all__ = [
    "Ddpm",
    "DiffusionProcess",
    "FlowMatching",
    "NoiseDraw",
    "draw_noise",
    "per_sample",
    "seeded_noise",
    "stratified",
]
