#!/usr/bin/python3
"""A PID namespace that the containers of a pod share: what is in it, who its first process is, and how it ends."""
import os
import select
import signal
import subprocess
import tempfile

import cri
import running

SLEEP = 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done'


def pid_mode(mode):
    return {'linux': {'security_context': {'namespace_options': {'pid': mode}}}}


class Pause(running.Running):
    def script(self, container, script):
        result = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', script])
        self.assertEqual(result.exit_code, 0, result)
        return result.stdout.decode().strip()

    def pause_of(self, pod):
        """Host pid of the pod's pause process: none of the host's own processes has its cgroup."""
        found = [int(p) for p in os.listdir('/proc') if p.isdigit() and self.is_pause(p, pod)]
        self.assertLessEqual(len(found), 1)
        return found[0] if found else None

    @staticmethod
    def is_pause(pid, pod):
        try:
            with open(f'/proc/{pid}/comm', encoding='utf-8') as comm, open(f'/proc/{pid}/cgroup', encoding='utf-8') as cgroup:
                return comm.read() == 'pause\n' and pod in cgroup.read()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def wait_for_pod(self, pod, ready):
        cri.wait_until(lambda: (self.pod_status(pod).state == cri.api().SANDBOX_READY) == ready, what=f'pod ready: {ready}')

    def test_containers_see_each_other(self):
        pod = self.pod(linux={'security_context': {'namespace_options': {'pid': 'POD'}, 'run_as_user': {'value': 1234},
                                                   'run_as_group': {'value': 2345}, 'supplemental_groups': [3456]}})
        one = self.container(pod, 'exec sleep 4321', name='one', **pid_mode('POD'))
        two = self.container(pod, SLEEP, name='two', **pid_mode('POD'))
        own = self.container(pod, SLEEP, name='own', **pid_mode('CONTAINER'))
        self.assertIn('sleep 4321', self.script(two, 'cat /proc/[0-9]*/cmdline | tr "\\0" " "'))
        self.assertNotIn('sleep 4321', self.script(own, 'cat /proc/[0-9]*/cmdline | tr "\\0" " "'))
        self.assertEqual(self.script(two, 'cat /proc/1/comm'), 'pause')
        status = self.script(two, 'cat /proc/1/status')
        for line in ('Uid:\t1234\t1234\t1234\t1234', 'Gid:\t2345\t2345\t2345\t2345', 'Groups:\t3456', 'CapPrm:\t0000000000000000',
                     'CapBnd:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2'):
            self.assertIn(line, status)
        self.assertNotEqual(self.cri.ExecSync(container_id=two, cmd=['ls', '/proc/1/root/']).exit_code, 0)
        # Neither a signal of a container ends it, nor do its orphans stay zombies.
        self.script(two, 'kill -TERM 1; kill -INT 1; kill -KILL 1; (sleep 0 &); sleep 0.3; ! grep -l "^State:.Z" /proc/[0-9]*/status')
        self.wait_for_pod(pod, True)
        self.cri.StopContainer(container_id=one, timeout=0)
        self.assertEqual(self.state(two), 'RUNNING')

    def test_stops_only_what_is_its_own(self):
        """The end of a container's first process takes all of its tree, and nothing of the others'."""
        pod = self.pod(**pid_mode('POD'))
        one = self.container(pod, 'sleep 4321 & sleep 4322 & exit 3', name='one', **pid_mode('POD'))
        two = self.container(pod, SLEEP, name='two', **pid_mode('POD'))
        cri.wait_until(lambda: self.state(one) == 'EXITED', what='an exit')
        self.assertEqual(self.status(one).exit_code, 3)
        cri.wait_until(lambda: 'sleep' not in self.script(two, 'cat /proc/[0-9]*/comm').replace('usleep', ''), what='no orphan')
        self.assertEqual(self.state(two), 'RUNNING')

    def test_survives_the_daemon(self):
        pod = self.pod(**pid_mode('POD'))
        container = self.container(pod, SLEEP, **pid_mode('POD'))
        before = self.pause_of(pod)
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.pause_of(pod), before)
        self.assertEqual(self.state(container), 'RUNNING')
        self.container(pod, SLEEP, name='late', **pid_mode('POD'))

    def test_its_death_ends_the_pod(self):
        for daemon_lives in (True, False):
            name = 'watched' if daemon_lives else 'unwatched'
            pod = self.pod(name, **pid_mode('POD'))
            shared = self.container(pod, SLEEP, name='shared', **pid_mode('POD'))
            own = self.container(pod, SLEEP, name='own', **pid_mode('CONTAINER'))
            cri.wait_until(lambda n=name: 'up' in str(self.lines(n, 'own')), what='its handler of SIGTERM')
            if not daemon_lives:
                cri.systemctl('stop', running.SOCKET, running.DAEMON)
            os.kill(self.pause_of(pod), signal.SIGKILL)
            if not daemon_lives:
                self.connect()
            self.wait_for_pod(pod, False)
            cri.wait_until(lambda c=shared: self.state(c) == 'EXITED', what='an exit')
            cri.wait_until(lambda c=own: self.state(c) == 'EXITED', what='an exit')
            self.assertEqual(self.status(shared).exit_code, 137)
            self.assertEqual(self.status(own).exit_code, 0)
            self.assertEqual(cri.code_of(lambda p=pod: self.container(p, SLEEP, name='late')), cri.Code.FAILED_PRECONDITION)
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)

    def test_ends_with_the_pod(self):
        pod = self.pod(**pid_mode('POD'))
        self.assertIsNotNone(self.pause_of(pod))
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.assertIsNone(self.pause_of(pod))
        for mode in ('CONTAINER', 'NODE'):
            other = self.pod(mode.lower(), **pid_mode(mode))
            self.assertIsNone(self.pause_of(other))

    def test_a_user_that_is_not_mapped_is_named(self):
        with self.assertRaises(Exception) as caught:
            self.pod(linux={'security_context': {'run_as_user': {'value': 4000000000}}})
        self.assertIn('run_as_user', str(caught.exception))

    def test_exec_tells_its_own_failures_apart(self):
        """In the log, where the daemon looks: else they would pass for the command's exit status."""
        program = f'{running.PREFIX}/libexec/userpod/userpod-exec'
        with tempfile.TemporaryDirectory() as d:
            for number, command, words in ((None, '/no/such/runtime', 'runtime: No such file'), (None, '/bin/true', 'number of the command'),
                                           ('', '/bin/true', 'number of the command'), ('4194303', '/bin/true', 'wait for the command')):
                for name, text in (('log', ''), ('pid', number)):
                    if text is not None:
                        with open(f'{d}/{name}', 'w', encoding='utf-8') as f:
                            f.write(text)
                self.assertEqual(subprocess.run([program, f'{d}/log', f'{d}/pid', '-', '-', command], check=False).returncode, 70)
                with open(f'{d}/log', encoding='utf-8') as f:
                    self.assertIn(words, f.read())
            self.assertEqual(subprocess.run([program, f'{d}/log', f'{d}/pid', '-', '-', '/bin/false'], check=False).returncode, 1)

    def test_exec_holds_the_command_at_its_gate(self):
        """Its program begins when the terminal's size is set, whenever the runtime leaves."""
        program = f'{running.PREFIX}/libexec/userpod/userpod-exec'
        with tempfile.TemporaryDirectory() as d:
            for runtime, gated in ((f'env sh -c "echo began; exit 7" & echo $! > {d}/pid', True),
                                   (f'env sh -c "echo began; exit 7" & echo $! > {d}/pid; exec sleep 0.5', True),
                                   (f'env sh -c "echo began; exit 7" & echo $! > {d}/pid', False)):
                with open(f'{d}/log', 'w', encoding='utf-8'):
                    pass
                inner, outer = os.pipe()
                words = [program, f'{d}/log', f'{d}/pid', str(inner) if gated else '-', '-', '/bin/sh', '-c', runtime]
                with subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=[inner]) as process:
                    os.close(inner)
                    self.assertEqual(not select.select([process.stdout], [], [], 0.3)[0], gated)
                    self.assertIsNone(process.poll() if gated else None)
                    os.close(outer)
                    self.assertEqual(process.stdout.read(), b'began\n')
                    self.assertEqual(process.wait(10), 7)
                self.assertEqual(os.listdir(d), ['log'])
            with open(f'{d}/log', 'w', encoding='utf-8'):
                pass
            inner, outer = os.pipe()
            failing = [program, f'{d}/log', f'{d}/pid', str(inner), '-', '/bin/sh', '-c', 'env echo began & i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exit 3']
            failed = subprocess.run(failing, stdout=subprocess.PIPE, pass_fds=[inner], timeout=10, check=False)
            self.assertEqual((failed.returncode, failed.stdout), (3, b''))
            with open(f'{d}/log', encoding='utf-8') as f:
                self.assertIn('exit status 3', f.read())
            os.close(inner)
            os.close(outer)

    def test_pod_mode_is_what_the_pod_has(self):
        node = self.container(self.pod('node', **pid_mode('NODE')), SLEEP)
        self.assertGreater(int(self.script(node, 'ls -d /proc/[0-9]* | wc -l')), 5)
        own = self.container(self.pod('own', **pid_mode('CONTAINER')), SLEEP)
        self.assertEqual(self.script(own, 'cat /proc/1/comm'), 'sh')


if __name__ == '__main__':
    running.main()
