"""Pipeline schedules, the event simulation that replays them, and their closed forms."""
