#!/usr/bin/python3
"""A clock that jumps, on and back, under what runs: times that are compared stay in their order, and whatever waits waits as long
as it was told.  Only where tests may set the clock: tests/testbed/uml."""
import http.client
import os
import subprocess
import threading
import time
import urllib.parse

import cri
import running

SET = '/srv/set-clock'
DAY = 86400
NANOS = 10**9
LOOP = 'trap "exit 0" TERM; echo ready; while :; do usleep 20000; done'
STUBBORN = 'trap "" TERM; echo ready; while :; do usleep 20000; done'


def jump(seconds):
    subprocess.run([SET, '-s', f'@{time.time() + seconds:.3f}'], check=True, stdout=subprocess.DEVNULL)


class Clock(running.Running):
    def setUp(self):
        super().setUp()
        real = time.time() - time.monotonic()
        self.addCleanup(lambda: jump(real + time.monotonic() - time.time()))
        daemon = running.main_pid()
        self.addCleanup(lambda: self.assertEqual(running.main_pid(), daemon, 'the daemon is another one'))

    def test_order_of_attempts(self):
        """kubelet takes the one that was created last for the current one."""
        first = self.pod()
        container = self.container(first, LOOP)
        self.wait_for_line('ready')
        jump(-2 * DAY)
        self.cri.StopContainer(container_id=container, timeout=10)
        status = self.status(container)
        self.assertEqual(self.state(container), 'EXITED')
        self.assertGreaterEqual(status.finished_at, status.started_at)
        again = self.status(self.container(first, LOOP, metadata={'name': 'main', 'attempt': 1}))
        self.assertGreater(again.created_at, status.created_at)
        self.cri.StopPodSandbox(pod_sandbox_id=first)
        metadata = dict(self.configs[first]['metadata'], attempt=1)
        second = self.pod(metadata=metadata)
        self.assertGreater(self.pod_status(second).created_at, self.pod_status(first).created_at)

    def test_what_waits_waits_as_long(self):
        pod = self.pod()
        container = self.container(pod, STUBBORN)
        self.wait_for_line('ready')
        url = urllib.parse.urlsplit(self.cri.Exec(container_id=container, cmd=['true'], stdout=True).url)

        def timed(call, by):
            """Seconds that the call took, with a jump in its midst."""
            begin = time.monotonic()
            work = threading.Thread(target=cri.code_of, args=(call,))
            work.start()
            time.sleep(1)
            jump(by)
            work.join()
            return time.monotonic() - begin

        for by in DAY, -2 * DAY:
            took = timed(lambda: self.cri.ExecSync(container_id=container, cmd=['sleep', '600'], timeout=3), by)
            self.assertTrue(3 <= took < 30, f'a time-out of 3 s took {took} s after a jump of {by} s')
        # A URL is good for a minute, whatever the clock on the wall says.
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        connection.request('POST', url.path, headers={'Connection': 'Upgrade', 'Upgrade': 'SPDY/3.1',
                                                      'X-Stream-Protocol-Version': 'v4.channel.k8s.io'})
        self.assertEqual(connection.getresponse().status, 101)
        connection.close()
        took = timed(lambda: self.cri.StopContainer(container_id=container, timeout=5), DAY)
        self.assertTrue(5 <= took < 30, f'a grace of 5 s took {took} s')
        self.assertEqual(self.state(container), 'EXITED')

    def test_figures_and_events(self):
        times, stream = [], self.cri.GetContainerEvents(deadline=600)

        def follow():
            try:
                for event in stream:
                    times.append(event.created_at)
            except cri.grpc.RpcError:
                pass
        follower = threading.Thread(target=follow)
        follower.start()
        pod = self.pod()
        cri.wait_until(lambda: times, what='the first event')
        container = self.container(pod, 'trap "exit 0" TERM; while :; do :; done')
        most = os.cpu_count() * 1.05 * NANOS
        usage = 0
        for by in DAY, -2 * DAY, DAY:
            self.cri.ContainerStats(container_id=container)
            time.sleep(1)
            jump(by)
            for _ in range(3):
                cpu = self.cri.ContainerStats(container_id=container).stats.cpu
                self.assertLess(abs(cpu.timestamp / NANOS - time.time()), 60)
                self.assertGreater(cpu.usage_core_nano_seconds.value, usage)
                self.assertLessEqual(cpu.usage_nano_cores.value, most)
                usage = cpu.usage_core_nano_seconds.value
                time.sleep(0.7)
        # Within the ten seconds between two scans, and not a day later.
        cri.wait_until(lambda: abs(self.cri.ContainerStats(container_id=container).stats.writable_layer.timestamp / NANOS -
                                   time.time()) < 60, timeout=60, what='a scan since the last jump')
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        cri.wait_until(lambda: len(times) >= 8, what='the events of a pod and its container')
        stream.cancel()
        follower.join()
        self.assertEqual(times, sorted(set(times)))

    def test_a_freed_address_rests(self):
        """For the half minute of address-reuse-delay: clients may still speak to the pod that had it."""
        first = self.pod('first')
        address = self.pod_status(first).network.ip
        self.cri.RemovePodSandbox(pod_sandbox_id=first)
        jump(DAY)
        taken = {self.pod_status(self.pod(f'later-{i}')).network.ip for i in range(3)}
        self.assertNotIn(address, taken)


if __name__ == '__main__':
    if not os.access(SET, os.X_OK):
        cri.skip(f'no {SET}: the clock of this machine is not for tests to set')
    running.main()
