"""Machines of a network of their own, which can be cut: each node is in a network namespace, with one link to Kafka, one to
the clients, and one to each other node.

For this the whole demo is in a namespace of its own already (`scripts/demo-kafka` enters it); Kafka and the clients stay
there. All of it is gone when the last process is.

A cut is silent, as one in a real network: packets are sent and arrive nowhere. Nothing is refused, no connection ends, and
what was under way arrives when the cut is over, if TCP has not given up by then. It takes no firewall: the neighbour's
hardware address is replaced by one that nobody has.
"""

import shutil
import subprocess

from gatelog_client import Failure

KAFKA = "10.77.1.100"
CLIENTS = "10.77.2.100"
NOBODY = "02:00:00:00:00:99"
# How packets get lost between two, and what is said of it.
BOTH, THERE, BACK, REFUSED = "both ways", "on the way there", "on the way back", "and told so"
HERE = ()


class Network:
    def __init__(self, nodes):
        self.nodes = range(1, nodes + 1)
        # Each lives as long as this process: it ends with its standard input.
        self._holders = {
            n: subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            for n in self.nodes
        }
        for n in self.nodes:
            self._wait_for_namespace(n)
            self._ip(self.enter(n), "link set lo up")
        self._links = {}  # (here, there) → where it is made, device, address there, hardware address there
        for n in self.nodes:
            self._link(f"k{n}", ("kafka", HERE, KAFKA), (n, self.enter(n), f"10.77.1.{n}"))
            self._link(f"c{n}", ("clients", HERE, CLIENTS), (n, self.enter(n), self.address(n)))
            for other in range(n + 1, nodes + 1):
                self._link(
                    f"n{n}{other}",
                    (n, self.enter(n), self.address(n)),
                    (other, self.enter(other), self.address(other)),
                )

    def address(self, n):
        """A node's own, for clients and other nodes. Kafka sees it under another one, over another link."""
        return f"10.77.2.{n}"

    def enter(self, n):
        """What a command begins with that is to run on a node's machine."""
        return ("nsenter", f"--net=/proc/{self._holders[n].pid}/ns/net", "--")

    def cut(self, here, there, how):
        """Cuts two off from each other: nodes by number, or "kafka"."""
        if how in (BOTH, THERE):
            self._send_to(here, there, NOBODY)
        if how in (BOTH, BACK):
            self._send_to(there, here, NOBODY)
        if how == REFUSED:
            for one, other in ((here, there), (there, here)):
                within, _, address, _, _ = self._links[one, other]
                self._ip(within, f"route replace unreachable {address}")

    def heal(self, here, there):
        for one, other in ((here, there), (there, here)):
            within, device, address, source, hardware = self._links[one, other]
            self._ip(within, f"route flush {address}")
            self._ip(within, f"route replace {address} dev {device} src {source}")
            self._send_to(one, other, hardware)

    def close(self):
        for holder in self._holders.values():
            holder.kill()
            holder.wait()

    def _link(self, name, one, other):
        (here, within, address), (there, beyond, far) = one, other
        ends = f"{name}a", f"{name}b"
        self._ip(within, f"link add {ends[0]} type veth peer name {ends[1]}")
        if beyond:
            self._ip(within, f"link set {ends[1]} netns {self._holders[there].pid}")
        hardware = []
        for place, device, own in ((within, ends[0], address), (beyond, ends[1], far)):
            self._ip(place, f"address replace {own}/32 dev lo")
            self._ip(place, f"link set {device} up")
            words = self._ip(place, f"-oneline link show {device}").split()
            hardware.append(words[words.index("link/ether") + 1])
        self._links[here, there] = (within, ends[0], far, address, hardware[1])
        self._links[there, here] = (beyond, ends[1], address, far, hardware[0])
        self.heal(here, there)

    def _send_to(self, here, there, hardware):
        within, device, address, _, _ = self._links[here, there]
        self._ip(within, f"neighbour replace {address} lladdr {hardware} dev {device} nud permanent")

    def _wait_for_namespace(self, n):
        """Until the holder has left ours, which takes a moment."""
        show = ["sh", "-c", f"while [ /proc/{self._holders[n].pid}/ns/net -ef /proc/self/ns/net ]; do sleep 0.01; done"]
        subprocess.run(show, check=True, timeout=10)

    def _ip(self, within, words):
        if not shutil.which("ip"):
            raise Failure("a network that can be cut is made with `ip` (the package iproute2), and there is none here")
        done = subprocess.run([*within, "ip", *words.split()], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"ip {words}: {done.stderr.strip()}")
        return done.stdout
