"""What an index will cost, measured on a few real batches before anything is spent: seconds, memory, disk.

Batches of several lengths go through the model, the longest one among them; their forms are published and turned into
postings in a temporary folder beside the index-to-be; and what that took is carried over to all batches that the build
would cut. The figures are for this machine, as busy as it is now.
"""

from proponent.cost.forecast import Forecast, Stage, forecast

__all__ = ["Forecast", "Stage", "forecast"]
