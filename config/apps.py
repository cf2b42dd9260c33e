"""How Django knows the frame: its checks and commands."""

from django.apps import AppConfig


class FrameConfig(AppConfig):
    name = "config"
    label = "config"
    verbose_name = "Frame"
