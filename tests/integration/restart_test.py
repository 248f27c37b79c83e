#!/usr/bin/python3
"""The daemon restarts, or is killed, under running containers: nothing of them is lost."""
import os
import signal
import time

import cri
import running

# Ends at once at its stop signal.
COUNTER = 'trap "exit 0" TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 3000; done'

TICK = 10_000_000
ROUNDS = 4


class Restart(running.Running):
    def counters(self):
        return [int(text) for text in self.texts(name='counter')]

    def restart(self):
        cri.systemctl('restart', running.DAEMON)

    def kill(self):
        """As a crash: systemd starts it again."""
        before = running.main_pid()
        os.kill(before, signal.SIGKILL)
        cri.wait_until(lambda: running.main_pid() not in (0, before), timeout=20, what='a new daemon')

    def survive(self, away):
        """Runs away(), which takes the daemon away and back, under containers of each kind."""
        pod = self.pod(labels={'app': 'restart'}, annotations={'note': 'kept'})
        counter = self.container(pod, COUNTER, 'counter', labels={'part': 'counter'})
        # Ends by itself while nobody looks: its file is seen in the pod's own log directory.
        ending = self.container(pod, 'while [ ! -e /go/now ]; do usleep 2000; done; exit 42', 'ending',
                                mounts=[{'container_path': '/go', 'host_path': self.logs}])
        made = self.container(pod, 'trap "exit 0" TERM; echo started; while :; do usleep 20000; done', 'made', start=False)
        done = self.container(pod, 'exit 7', 'done')
        cri.wait_until(lambda: self.state(done) == 'EXITED', what='the first exit')
        cri.wait_until(lambda: len(self.counters()) > 20, what='output')
        before = {c: self.status(c) for c in (counter, ending, made, done)}
        address, network = self.pod_status(pod).network.ip, self.links(counter)
        self.assertTrue(address)

        begin = time.time_ns()
        written = len(self.counters())
        away(lambda: open(f'{self.logs}/now', 'w').close())
        self.connect()
        end = time.time_ns()

        cri.wait_until(lambda: self.state(ending) == 'EXITED', what='the exit of the absence')
        ended = self.status(ending)
        self.assertEqual((ended.exit_code, ended.reason), (42, 'Error'))
        # The kernel's file times may be a tick old.
        self.assertTrue(begin - TICK <= ended.finished_at <= end, (begin, ended.finished_at, end))
        after = {c: self.status(c) for c in (counter, made, done)}
        for c, status in after.items():
            self.assertEqual(status, before[c])
        pod_after = self.pod_status(pod)
        self.assertEqual(pod_after.state, cri.api().SANDBOX_READY)
        self.assertEqual((pod_after.network.ip, dict(pod_after.labels)['app'], dict(pod_after.annotations)),
                         (address, 'restart', {'note': 'kept'}))
        self.assertEqual(self.links(counter), network)
        self.assertIn(address, network)

        # All goes on: output without a gap, the container that had only been made, new ones, stops.
        self.cri.StartContainer(container_id=made)
        self.wait_for_line('started', name='made')
        written = max(written, len(self.counters()))
        cri.wait_until(lambda: len(self.counters()) > written + 20, what='more output')
        another = self.container(pod, 'echo new', 'another')
        cri.wait_until(lambda: self.state(another) == 'EXITED', what='the exit of a new container')
        self.assertEqual(self.texts(name='another'), ['new'])
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        numbers = self.counters()
        self.assertEqual(numbers, list(range(len(numbers))))
        self.assertEqual(self.state(counter), 'EXITED')

    def links(self, container):
        got = self.cri.ExecSync(container_id=container, cmd=['ip', 'address', 'show', 'eth0'])
        self.assertEqual(got.exit_code, 0, got.stderr)
        return got.stdout.decode()

    def test_restart(self):
        def away(go):
            go()
            self.restart()
        self.survive(away)

    def test_absence(self):
        """Stopped and, later, started: the exit in between is only in the monitor's file."""
        def away(go):
            cri.systemctl('stop', running.DAEMON, running.SOCKET)
            go()
            time.sleep(1)
            cri.systemctl('start', running.SOCKET)
        self.survive(away)

    def test_killed(self):
        def away(go):
            go()
            self.kill()
        self.survive(away)

    def test_killed_again_and_again(self):
        """At any moment of a start: the counter goes on and no pod is lost or double."""
        pod = self.pod()
        counter = self.container(pod, COUNTER, 'counter')
        for i in range(4):
            self.kill()
            time.sleep(0.1 * i)
            cri.systemctl('reset-failed', running.DAEMON, check=False)
        self.connect()
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [pod])
        self.assertEqual(self.state(counter), 'RUNNING')
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        numbers = self.counters()
        self.assertEqual(numbers, list(range(len(numbers))))

    def test_same_names_after_it(self):
        """A retry of what was done before the restart gets the same objects."""
        pod = self.pod()
        counter = self.container(pod, COUNTER, 'counter')
        self.restart()
        self.connect()
        self.assertEqual(self.pod(), pod)
        self.assertEqual(self.container(pod, COUNTER, 'counter', start=False), counter)

    def test_after_large_answers(self):
        """What gRPC does for an answer that the socket does not take at once lasts up to 10 s; the end need not wait."""
        container = self.container(self.pod(), COUNTER)
        for _ in range(ROUNDS):
            for _ in range(3):
                self.assertEqual(len(self.cri.ExecSync(container_id=container, cmd=['head', '-c', '4000000', '/dev/zero']).stdout), 4_000_000)
            begin = time.monotonic()
            self.restart()
            took = time.monotonic() - begin
            print(f'{took:.2f} s')
            self.assertLess(took, 5 * (4 if cri.SLOW else 1))
            self.connect()


if __name__ == '__main__':
    running.main()
