#!/usr/bin/python3
"""Pause and resume, over the bus and by userpodctl; what a paused container does with a stop, a kill and an exec."""
import json
import subprocess
import time
import unittest

import cri
import running

LOOP = 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done'
COUNT = f'trap "echo bye; exit 7" TERM; {LOOP}'
DEAF = f'trap "" TERM; {LOOP}'
CONTAINER = 'org.userpod1.Container'
MANAGED = ('a{sv}', 1, 'force-managed', 'b', 'true')


class Pause(running.Running):
    def path(self, container):
        return f'/org/userpod1/containers/{container}'

    def call(self, container, method, options=MANAGED):
        cri.bus_call(self.path(container), CONTAINER, method, *options)

    def shown(self, container):
        return cri.bus_get(self.path(container), CONTAINER, 'State')

    def counting(self, name='main', script=COUNT, pod=None):
        container = self.container(pod or self.pod(name), script, name)
        self.where = {'pod': 'pod' if pod else name, 'name': name}
        self.wait_for_line('1', **self.where)
        return container

    def exec(self, container, *command):
        return self.cri.ExecSync(container_id=container, cmd=command).exit_code

    def stands_still(self):
        before = len(self.texts(**self.where))
        time.sleep(0.4)
        return len(self.texts(**self.where)) == before

    def last_line(self):
        return self.texts(**self.where)[-1]

    def refused(self, code, words, call, *args, **fields):
        with self.assertRaises(cri.grpc.RpcError) as caught:
            call(*args, **fields)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), words)

    def test_pause_and_resume(self):
        container = self.counting()
        self.assertFalse(self.stands_still())
        with self.assertRaisesRegex(RuntimeError, 'force-managed'):
            self.call(container, 'Pause', ('a{sv}', 0))
        self.call(container, 'Pause')
        self.assertTrue(self.stands_still())
        self.assertEqual((self.shown(container), self.state(container)), ('paused', 'RUNNING'))
        self.assertTrue(json.loads(self.cri.ContainerStatus(container_id=container, verbose=True).info['info'])['paused'])
        self.call(container, 'Pause')
        self.refused(cri.Code.FAILED_PRECONDITION, 'is paused: resume it first', self.exec, container, 'true')
        # The cgroup says so, not the daemon's store.
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        self.assertEqual(self.shown(container), 'paused')
        self.assertTrue(self.stands_still())
        self.call(container, 'Resume')
        self.call(container, 'Resume')
        self.assertEqual(self.shown(container), 'running')
        self.assertFalse(self.stands_still())
        self.assertEqual(self.exec(container, 'true'), 0)

    def test_command_line(self):
        container = self.counting()
        ctl = f'{running.PREFIX}/bin/userpodctl'
        self.assertIn('paused', cri.run(ctl, 'pause', '--force-managed', container[:12]))
        self.assertIn('paused', cri.run(ctl, 'containers'))
        self.assertIn('resumed', cri.run(ctl, 'resume', '--force-managed', container[:12]))
        self.assertEqual(self.shown(container), 'running')
        failed = subprocess.run([ctl, 'pause', '--force-managed', 'f' * 64], capture_output=True, check=False)
        self.assertEqual(failed.returncode, 66)

    def test_stop_resumes(self):
        container = self.counting()
        self.call(container, 'Pause')
        begin = time.monotonic()
        self.cri.StopContainer(container_id=container, timeout=20)
        self.assertLess(time.monotonic() - begin, 10)
        status = self.status(container)
        self.assertEqual((status.exit_code, self.last_line()), (7, 'bye'))
        self.assertEqual(self.shown(container), 'exited')

    def test_stop_kills_in_the_end(self):
        container = self.counting(script=DEAF)
        self.call(container, 'Pause')
        self.cri.StopContainer(container_id=container, timeout=1)
        self.assertEqual(self.status(container).exit_code, 137)

    def test_kill_while_paused(self):
        for name, kill in (('stop', lambda c: self.cri.StopContainer(container_id=c, timeout=0)),
                           ('main', lambda c: cri.bus_call(self.path(c), CONTAINER, 'Kill', 'isa{sv}', 9, 'main', *MANAGED[1:])),
                           ('all', lambda c: cri.bus_call(self.path(c), CONTAINER, 'Kill', 'isa{sv}', 9, 'all', *MANAGED[1:]))):
            container = self.counting(name)
            self.call(container, 'Pause')
            kill(container)
            cri.wait_until(lambda c=container: self.state(c) == 'EXITED', what=f'the end by {name}')
            self.assertEqual((self.status(container).exit_code, self.shown(container)), (137, 'exited'))

    def test_not_during_a_stop(self):
        container = self.counting(script=DEAF)
        stop = self.cri.future('StopContainer', container_id=container, timeout=3)
        time.sleep(0.3)
        with self.assertRaisesRegex(RuntimeError, 'being stopped'):
            self.call(container, 'Pause')
        stop.result()
        with self.assertRaisesRegex(RuntimeError, 'not created or running'):
            self.call(container, 'Pause')

    def test_not_before_the_start(self):
        container = self.container(self.pod(), COUNT, start=False)
        with self.assertRaisesRegex(RuntimeError, 'has not been started'):
            self.call(container, 'Pause')

    def test_removal_and_the_pods_stop(self):
        pod = self.pod()
        first, second = self.counting('first', pod=pod), self.counting('second', pod=pod)
        for container in (first, second):
            self.call(container, 'Pause')
        self.cri.RemoveContainer(container_id=first)
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.assertEqual(self.status(second).exit_code, 7)

    def test_killed_in_the_middle(self):
        """Between the freezer and the store: the freezer is right."""
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        container = self.counting()
        for stage, method, state in (('pause.frozen', 'Pause', 'paused'), ('resume.thawed', 'Resume', 'running')):
            cri.systemctl('set-environment', f'USERPOD_KILL_AT={stage}')
            running.restart_daemon()
            self.connect()
            with self.assertRaises(RuntimeError):
                self.call(container, method)
            cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
            running.restart_daemon()
            self.connect()
            self.assertEqual(self.shown(container), state)
            self.assertEqual(self.stands_still(), state == 'paused')

    def test_stop_of_the_node(self):
        """Every container gets its signal there, a paused one too."""
        container = self.counting()
        self.call(container, 'Pause')
        cri.systemctl('stop', running.NODE)
        self.connect()
        self.assertEqual((self.status(container).exit_code, self.last_line()), (7, 'bye'))


if __name__ == '__main__':
    running.main()
