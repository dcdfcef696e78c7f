"""What all receivers of the demo have in common: a disk, what they are told at their start, and orders."""


class Receiver:
    def __init__(self, disk, known):
        self.disk = disk
        self.known = known
        self.delay = known.get("delay", 0)

    async def run(self):
        raise NotImplementedError

    def order(self, order):
        if order["do"] == "slow":
            self.delay = order["delay"]
