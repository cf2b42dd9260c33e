"""When usage is so unlike the usual week that a person should look at it before it is billed."""

import os

# The usual week is the median of as many weeks before, and unknown while there are fewer than the second number.
USUAL_WEEKS = int(os.environ.get("USAGE_USUAL_WEEKS") or 8)
USUAL_WEEKS_AT_LEAST = int(os.environ.get("USAGE_USUAL_WEEKS_AT_LEAST") or 4)
# Less than this much of the usual is a fall, more than so much a spike: of a source's hour, of a customer's period.
USAGE_FALL_PERCENT = int(os.environ.get("USAGE_FALL_PERCENT") or 50)
USAGE_HOUR_SPIKE_PERCENT = int(os.environ.get("USAGE_HOUR_SPIKE_PERCENT") or 300)
USAGE_SPIKE_PERCENT = int(os.environ.get("USAGE_SPIKE_PERCENT") or 200)
# Of fewer events than these, usually, only their absence is told: a few events double by chance. Of what is new, only
# what was used in as many hours can go silent.
USAGE_FEWEST_EVENTS = int(os.environ.get("USAGE_FEWEST_EVENTS") or 10)
# An hour is looked at so long after its end, for usage takes its time to come in.
USAGE_SETTLES_AFTER_HOURS = int(os.environ.get("USAGE_SETTLES_AFTER_HOURS") or 2)
