#!/usr/bin/python3
"""What lives beside the daemon is killed: conmon, the uplink, the node. Each ends in a truthful state and a condition
that names it, leaves nothing behind, and needs no command by hand."""
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

import cri
import running

LOOP = 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done'


def main_pid(unit):
    """Of a unit that may be on its way back."""
    return cri.wait_until(lambda: int(cri.systemctl('show', '-P', 'MainPID', unit)), what=f'a process of {unit}')


def node_cgroup():
    return '/sys/fs/cgroup' + cri.systemctl('show', '-P', 'ControlGroup', running.NODE)


def processes(cgroup):
    """Host pids in a cgroup of the node and those below it."""
    found = []
    for path, _, _ in os.walk(node_cgroup() + cgroup):
        with contextlib.suppress(OSError), open(f'{path}/cgroup.procs', encoding='utf-8') as f:
            found += map(int, f.read().split())
    return found


def kill(*pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # ended with another
            os.kill(pid, signal.SIGKILL)


class Killed(running.Running):
    def condition(self, name):
        """(status, reason, message)"""
        found = [c for c in self.cri.Status(deadline=10).status.conditions if c.type == name]
        self.assertEqual(len(found), 1, name)
        return found[0].status, found[0].reason, found[0].message

    def wait_for(self, container, state):
        cri.wait_until(lambda: self.state(container) == state, what=f'{state}')

    @staticmethod
    def end_daemon(by):
        """By a kill of its own or of its node: it goes a moment after it, and may still answer until then."""
        daemon = running.main_pid()
        by()
        cri.wait_until(lambda: running.main_pid() != daemon, what='the end of the daemon')

    def answer(self, timeout=30):
        """Nothing but a client that connects: no command."""
        self.cri.channel.close()
        self.cri = cri.Cri()
        cri.wait_until(lambda: cri.code_of(self.cri.Version, deadline=20) == cri.Code.OK, timeout=timeout, what='an answer of the daemon')


class Monitor(Killed):
    """Of conmon."""

    def setUp(self):
        super().setUp()
        self.files = tempfile.mkdtemp(prefix='userpod-test-killed-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, self.files)
        self.oracle('snapshot')

    def oracle(self, verb):
        with open(f'{cri.RUNTIME_DIR}/userpod/node/holder.json', encoding='utf-8') as f:
            pid = f.read().split('"pid":')[1].split(',')[0]
        got = subprocess.run(['/usr/bin/python3', f'{cri.ROOT}/tests/oracle', verb, '--node', pid, f'{self.files}/oracle'],
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(got.returncode, 0, got.stdout + got.stderr)

    def lost(self, container):
        status = self.status(container)
        self.assertEqual((status.exit_code, status.reason), (255, 'MonitorLost'))
        self.assertIn('conmon', status.message)
        self.assertTrue(status.created_at <= status.finished_at <= time.time_ns())
        self.assertEqual(processes(f'/mon/{container}'), [])

    def monitor(self, container):
        pids = processes(f'/mon/{container}')
        self.assertEqual(len(pids), 1)
        return pids[0]

    def process(self, pod, container):
        pids = processes(f'/pods/{pod}/{container}')
        self.assertTrue(pids)
        return pids

    def three(self):
        """Running, only created, and one that is left alone."""
        pod = self.pod()
        containers = [self.container(pod, LOOP, 'run'), self.container(pod, LOOP, 'made', start=False), self.container(pod, LOOP, 'kept')]
        for name in 'run', 'kept':
            self.wait_for_line('up', name=name)
        return pod, containers

    def ended(self, pod, gone, kept):
        for container in gone:
            self.wait_for(container, 'EXITED')
            self.lost(container)
            self.assertEqual(processes(f'/pods/{pod}/{container}'), [])
        self.assertEqual(self.state(kept), 'RUNNING')
        self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_READY)
        ok, reason, message = self.condition('Monitors')
        self.assertEqual((ok, reason), (False, 'MonitorLost'))
        for container in gone:
            self.assertIn(container[:12], message)
        self.assertNotIn(kept[:12], message)
        for container in gone:
            self.assertEqual(cri.code_of(self.cri.StartContainer, container_id=container), cri.Code.FAILED_PRECONDITION)
            self.cri.StopContainer(container_id=container, timeout=5)
            self.cri.RemoveContainer(container_id=container)
        self.assertEqual(self.condition('Monitors'), (True, '', ''))
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.oracle('check')

    def test_alone(self):
        pod, (run, made, kept) = self.three()
        kill(self.monitor(run), self.monitor(made))
        self.ended(pod, [run, made], kept)

    def test_with_its_container(self):
        pod, (run, made, kept) = self.three()
        kill(self.monitor(run), *self.process(pod, run), *self.process(pod, made), self.monitor(made))
        self.ended(pod, [run, made], kept)

    def test_while_it_is_stopped(self):
        """A stop under way is answered, and the container does not outlive it."""
        pod, (run, made, kept) = self.three()
        deaf = self.container(pod, 'trap "" TERM; echo up; while :; do usleep 20000; done', 'deaf')
        self.wait_for_line('up', name='deaf')
        stop = self.cri.future('StopContainer', container_id=deaf, timeout=60)
        time.sleep(0.2)
        kill(self.monitor(deaf), self.monitor(run), self.monitor(made))
        stop.result(timeout=20)
        self.ended(pod, [run, made, deaf], kept)

    def test_without_a_daemon(self):
        """The next daemon ends a container that nobody watches."""
        pod, (run, made, kept) = self.three()
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
        kill(self.monitor(run), self.monitor(made))
        self.assertTrue(self.process(pod, run))
        self.connect()
        self.ended(pod, [run, made], kept)

    def test_with_the_daemon(self):
        pod, (run, made, kept) = self.three()
        victims = [self.monitor(run), self.monitor(made), *self.process(pod, made)]
        self.end_daemon(lambda: kill(main_pid(running.DAEMON), *victims))
        self.answer()
        self.ended(pod, [run, made], kept)

    def test_all_of_a_pod(self):
        pod, containers = self.three()
        kill(*[self.monitor(c) for c in containers])
        for container in containers:
            self.wait_for(container, 'EXITED')
            self.lost(container)
        self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_READY)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assertEqual(self.condition('Monitors'), (True, '', ''))
        self.oracle('check')


class Uplink(Killed):
    def test_killed(self):
        if not self.condition('Uplink')[0]:
            self.skipTest('no uplink here: ' + self.condition('Uplink')[2])
        seen = []
        kill(*processes('/uplink'))
        end = time.monotonic() + (40 if cri.SANITIZE else 10)
        while seen[-1:] != [True] or len(seen) < 2:
            ok, reason, message = self.condition('Uplink')
            if seen[-1:] != [ok]:
                seen.append(ok)
            if not ok:
                self.assertEqual(reason, 'UplinkDown')
                self.assertIn('killed by signal 9', message)
            self.assertLess(time.monotonic(), end, seen)
        self.assertEqual([ok for ok in seen if not ok], [False])


class Node(Killed):
    def three(self, name):
        """A pod with a running, a created and an ended container."""
        pod = self.pod(name)
        done = self.container(pod, 'exit 7', 'done')
        run = self.container(pod, f'echo kept > /file; {LOOP}', 'run')
        made = self.container(pod, LOOP, 'made', start=False)
        self.wait_for(done, 'EXITED')
        self.wait_for_line('up', pod=name, name='run')
        return pod, run, made, done

    def check_after(self, pods, begin):
        """What is left is known for what it is; new pods run; what is removed is gone."""
        for pod, run, made, done in pods:
            self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_NOTREADY)
            for container in run, made:
                status = self.status(container)
                self.assertEqual((self.state(container), status.exit_code, status.reason), ('EXITED', 255, 'NodeEnded'))
                self.assertIn('node', status.message)
                # Known by the start of the next node.
                self.assertTrue(begin <= status.finished_at <= time.time_ns(), (begin, status.finished_at))
            self.assertEqual((self.status(done).exit_code, self.status(done).reason), (7, 'Error'))
            self.assertLess(self.status(done).finished_at, begin)
            self.assertTrue(os.path.exists(f'{cri.DATA_DIR}/containers/{run}/upper/file'))
        ok, reason, message = self.condition('NodeIntact')
        self.assertEqual((ok, reason), (False, 'NodeRestarted'))
        for pod, *_ in pods:
            self.assertIn(pod[:12], message)
        self.assertEqual(self.condition('Monitors')[0], True)

        new, run, _, _ = self.three('new')
        got = self.cri.ExecSync(container_id=run, cmd=['ip', 'address', 'show', 'eth0'])
        self.assertIn(self.pod_status(new).network.ip, got.stdout.decode())
        for pod, *_ in pods:
            self.cri.StopPodSandbox(pod_sandbox_id=pod)
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assertEqual(self.condition('NodeIntact'), (True, '', ''))
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [new])
        self.assertEqual(self.state(run), 'RUNNING')
        self.cri.RemovePodSandbox(pod_sandbox_id=new)
        self.no_writable_layers()
        for name in 'pods', 'containers', 'exits':
            self.assertEqual(os.listdir(f'{cri.RUNTIME_DIR}/userpod/{name}'), [])

    def no_writable_layers(self):
        # They are renamed at once, and deleted in the background.
        cri.wait_until(lambda: not os.listdir(f'{cri.DATA_DIR}/containers'), what='no writable layer is left')

    def end_by(self, *pids):
        pods = [self.three('first'), self.three('second')]
        begin = time.time_ns()
        self.end_daemon(lambda: kill(*[pid() for pid in pids]))
        self.answer()
        self.check_after(pods, begin)

    @staticmethod
    def first():
        return next(pid for pid in processes('/init') if pid != main_pid(running.NODE))

    def test_holder_killed(self):
        self.end_by(lambda: main_pid(running.NODE))

    def test_first_process_killed(self):
        self.end_by(self.first)

    def test_both_killed(self):
        self.end_by(self.first, lambda: main_pid(running.NODE))

    def test_killed_with_the_daemon(self):
        self.end_by(lambda: main_pid(running.NODE), lambda: main_pid(running.DAEMON))

    def test_restarted(self):
        pods = [self.three('first')]
        begin = time.time_ns()
        self.end_daemon(lambda: cri.systemctl('kill', '--kill-whom=all', '-s', 'KILL', running.NODE))
        self.answer()
        self.check_after(pods, begin)

    def test_killed_again_and_again(self):
        """No limit is reached after which somebody would have to help."""
        pods = [self.three('first')]
        begin = time.time_ns()
        for _ in range(8):
            self.answer()
            self.end_daemon(lambda: kill(main_pid(running.NODE)))
        for _ in range(8):
            self.answer()
            self.end_daemon(lambda: kill(main_pid(running.DAEMON)))
        self.answer()
        self.check_after(pods, begin)

    def test_cannot_start_for_a_while(self):
        """A node that fails again and again is tried until what hinders it is mended, and clients are served then."""
        pods = [self.three('first')]
        directory = (os.environ.get('XDG_CONFIG_HOME') or os.path.expanduser('~/.config')) + '/userpod/userpod.toml.d'
        os.makedirs(directory, exist_ok=True)
        broken = f'{directory}/99-test.toml'
        with open(broken, 'w', encoding='utf-8') as f:
            f.write('no-such-setting = true\n')
        try:
            begin = time.time_ns()
            self.end_daemon(lambda: kill(main_pid(running.NODE)))
            self.cri.channel.close()
            self.cri = cri.Cri()
            end = time.monotonic() + 12  # past systemd's usual limit of five starts in ten seconds
            while time.monotonic() < end:
                self.assertNotEqual(cri.code_of(self.cri.Version, deadline=2), cri.Code.OK)
            starts = int(cri.systemctl('show', '-P', 'NRestarts', running.NODE))
            self.assertTrue(6 <= starts <= 20, starts)
        finally:
            os.unlink(broken)
            with contextlib.suppress(OSError):  # the user's own
                os.rmdir(directory)
                os.rmdir(os.path.dirname(directory))
        self.answer()
        self.check_after(pods, begin)

    def test_runtime_directory_gone(self):
        """As after a logout or a reboot: nothing is known of the pods, and nothing of them is left."""
        pod, run, _, _ = self.three('first')
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
        cri.systemctl('kill', '--kill-whom=all', '-s', 'KILL', running.NODE)
        cri.systemctl('stop', running.NODE)
        self.assertTrue(os.path.exists(f'{cri.DATA_DIR}/containers/{run}'))
        shutil.rmtree(f'{cri.RUNTIME_DIR}/userpod')
        self.connect()
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.no_writable_layers()
        self.assertEqual(self.condition('NodeIntact'), (True, '', ''))
        self.assertEqual(self.cri.ImageStatus(image={'image': self.image}).image.id, self.image)
        self.assertNotIn(pod, [self.pod('first')])
        self.container(self.pod('again'), LOOP, 'run')
        self.wait_for_line('up', pod='again', name='run')


if __name__ == '__main__':
    running.main()
