#!/usr/bin/python3
"""The daemon ends, or the container, under open sessions: nothing is left of a session, and nothing waits for one."""
import os
import signal
import subprocess
import time

import cri
import kubectl
import running

# One that a hang-up ends, and one that nothing but a kill does.  The shell says what ended its child: to nobody.
ENDS = 'exec 2>/dev/null; trap "echo hangup >> /tmp/ends; exit" HUP; echo up; while : session; do usleep 20000; done'
STAYS = 'trap "" HUP INT TERM PIPE; echo up; while : session; do usleep 20000; done'


class Sessions(kubectl.Kubectl):
    def open(self, script):
        """Without a terminal and with one."""
        plain = self.start('exec', '-i', 'pod', '--', 'sh', '-c', script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(plain.stdout.readline(), b'up\n')
        terminal = self.terminal('exec', '-it', 'pod', '--', 'sh', '-c', script)
        terminal.wait_for('up\r\n')
        return plain, terminal.process

    def cgroups(self):
        """Of execs, as the node sees them."""
        return [line for line in running.enter('find', '/sys/fs/cgroup', '-type', 'd', '-name', 'exec-*').split('\n') if self.main in line]

    def ends(self, processes):
        """What kubectl makes of a connection that breaks is its own affair."""
        for process in processes:
            process.wait(20)

    def test_restart(self):
        """They are hung up; what ignores that is ended by the next daemon."""
        processes = self.open(ENDS) + self.open(STAYS)
        self.assertEqual(len(self.cgroups()), 4)
        running.restart_daemon()
        self.ends(processes)
        self.connect()
        self.assertEqual(self.inside('cat /tmp/ends'), 'hangup\nhangup')
        self.assertEqual((self.cgroups(), self.processes('while : session')), ([], []))
        self.assertEqual(self.state(self.main), 'RUNNING')

    def test_killed(self):
        processes = self.open(ENDS) + self.open(STAYS)
        before = running.main_pid()
        os.kill(before, signal.SIGKILL)
        cri.wait_until(lambda: running.main_pid() not in (0, before), timeout=20, what='a new daemon')
        self.ends(processes)
        self.connect()
        self.assertEqual((self.cgroups(), self.processes('while : session')), ([], []))
        self.assertEqual(self.kubectl('exec', 'pod', '--', 'echo', 'again').stdout, b'again\n')
        self.assertEqual(running.enter('ls', '/run/userpod/execs'), '')

    def test_stop_and_removal(self):
        """Nothing waits for a session, which ends with its container."""
        processes = self.open(STAYS)
        begin = time.monotonic()
        self.cri.StopContainer(container_id=self.main, timeout=5)
        self.assertLess(time.monotonic() - begin, 3)
        self.ends(processes)
        self.main = self.container(self.sandbox, 'trap "" TERM; while :; do usleep 20000; done', 'other')
        processes = (self.start('exec', 'pod', '-c', 'other', '--', 'sh', '-c', STAYS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL),)
        self.assertEqual(processes[0].stdout.readline(), b'up\n')
        self.cri.RemoveContainer(container_id=self.main)
        self.ends(processes)
        self.assertEqual(self.cgroups(), [])

    def test_with_the_pids_of_the_node(self):
        """There nothing but the cgroup says what belongs to the container."""
        pod = self.pod('node', linux={'security_context': {'namespace_options': {'pid': 'NODE'}}})
        self.main = self.container(pod, 'trap "exit 0" TERM; while :; do usleep 20000; done', 'node')
        process = self.start('exec', 'node', '-c', 'node', '--', 'sh', '-c', STAYS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(process.stdout.readline(), b'up\n')
        self.cri.StopContainer(container_id=self.main, timeout=5)
        self.ends([process])
        self.assertEqual(self.cgroups(), [])


if __name__ == '__main__':
    kubectl.main()
