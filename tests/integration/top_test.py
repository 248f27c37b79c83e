#!/usr/bin/python3
"""userpodctl top and the figures behind it: right under load, on any terminal and without one, and across a restart of the
daemon."""
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time

import cri
import running
from terminal import CTL, ESCAPE, Terminal

LOOP = 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done'
BURN = 'trap "exit 0" TERM; echo up; while :; do :; done'
LEFT = '\x1b[?1049l'                                 # the alternate screen


def screen(terminal):
    """What is on it now: the text since the last home of the cursor, as lines."""
    whole = terminal.shown().split('\x1b[H')[-1]
    return [ESCAPE.sub('', line).rstrip() for line in whole.split('\r\n')]


class TopTest(running.Running):
    @staticmethod
    def top(*options):
        p = subprocess.run([CTL, 'top', *options], capture_output=True, text=True, timeout=60, check=False)
        return p.returncode, p.stdout, p.stderr

    @staticmethod
    def usage(pod, container):
        node = cri.systemctl('show', '-P', 'ControlGroup', running.NODE).strip()
        with open(f'/sys/fs/cgroup{node}/pods/{pod}/{container}/cpu.stat', encoding='utf-8') as f:
            return int(dict(line.split() for line in f.read().splitlines())['usage_usec'])

    @contextlib.contextmanager
    def followed(self, pod, container):
        """A list that gets the times, in seconds, and what the container has used until then, as long as it is open."""
        looks, end = [], threading.Event()

        def follow():
            while not end.wait(0.02):
                looks.append((time.monotonic(), self.usage(pod, container) / 1e6))
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield looks
        finally:
            end.set()
            thread.join()

    def test_processor_time_is_that_of_the_cgroup(self):
        pod, idle = self.pod(), self.pod('idle')
        made = self.container(pod, BURN)
        self.container(idle, LOOP)
        with self.followed(pod, made) as looks, subprocess.Popen([CTL, 'top', '--json', '--interval', '2'], stdout=subprocess.PIPE) as p:
            try:
                p.stdout.readline()  # of a shorter time
                sample = json.loads(p.stdout.readline())
            finally:
                p.kill()
        rows = {p['id']: p for p in sample['pods']}
        self.assertEqual(set(rows), {pod, idle})
        container = rows[pod]['containers'][0]
        self.assertEqual((container['id'], container['name']), (made, 'main'))
        # Which two seconds they were is not told, and other load may make each of them different.
        rates = [(used - before) / (now - then) for i, (then, before) in enumerate(looks)
                 for now, used in looks[i + 1:] if now - then >= 1.9]
        print('of the container:', container['cpu'], 'of its cgroup:', min(rates), max(rates))
        self.assertGreater(container['cpu'], 0.85 * min(rates) - 0.05)
        self.assertLess(container['cpu'], 1.15 * max(rates) + 0.05)
        self.assertGreater(container['cpu'], 5 * rows[idle]['cpu'])
        status, table, _ = self.top('--once', '--interval', '1')
        self.assertEqual(status, 0)
        table = table.splitlines()
        names = [line.split()[0] for line in table if line.startswith('test/')]
        self.assertEqual(names, ['test/pod', 'test/idle'], 'the busy one first')
        self.assertEqual([line.split()[0] for line in self.top('--once', '--sort', 'name', '--interval', '0.2')[1].splitlines()
                          if line.startswith('test/')], ['test/idle', 'test/pod'])
        self.assertNotIn('\x1b', '\n'.join(table))

    def test_the_bus_has_the_figures(self):
        pod = self.pod()
        made = self.container(pod, BURN)
        at = f'/org/userpod1/containers/{made}'
        before = self.usage(pod, made)
        figures = cri.bus_call(at, 'org.userpod1.Container', 'GetStats', 'a{sv}', 0)[0]
        after = self.usage(pod, made)
        self.assertLessEqual(before, figures['cpu-usage-nsec'] / 1000)
        self.assertLessEqual(figures['cpu-usage-nsec'] / 1000, after)
        everything = cri.bus_call('/org/userpod1', 'org.userpod1.Manager', 'GetStats', 'aoa{sv}', 0, 1, 'all', 'b', 'true')[0]
        self.assertEqual(set(everything), {at, f'/org/userpod1/pods/{pod}'})
        self.assertEqual([i['name'] for i in everything[f'/org/userpod1/pods/{pod}']['interfaces']], ['eth0'])
        self.assertGreaterEqual(everything[at]['processes'], 1)
        some = cri.bus_call('/org/userpod1', 'org.userpod1.Manager', 'GetStats', 'aoa{sv}', 2, at,
                            f'/org/userpod1/pods/{"0" * 64}', 0)[0]
        self.assertEqual(set(some), {at}, 'what has gone is left out')
        with self.assertRaisesRegex(RuntimeError, 'no object of a pod or container'):
            cri.bus_call('/org/userpod1', 'org.userpod1.Manager', 'GetStats', 'aoa{sv}', 1, '/org/userpod1', 0)

    def test_a_terminal_is_filled_resized_and_given_back(self):
        for i in range(12):
            self.container(self.pod(f'pod-{i:02}'), LOOP)
        terminal = Terminal('top', '--interval', '0.2', columns=100, rows=16)
        terminal.wait_for('test/pod-', 'CPU%*', 'more lines')
        cri.wait_until(lambda: re.search(r'cpu \d', '\n'.join(screen(terminal))), what='rates')
        self.assertLessEqual(max(map(len, screen(terminal))), 100)
        terminal.resize(40, 60)
        cri.wait_until(lambda: len([line for line in screen(terminal) if 'pod-' in line]) == 12, what='all of them')
        self.assertLessEqual(max(map(len, screen(terminal))), 40)
        self.assertIn('CPU%', '\n'.join(screen(terminal)))
        terminal.type(b'n')
        cri.wait_until(lambda: 'NAME*' in '\n'.join(screen(terminal)), what='sorted by name')
        cri.wait_until(lambda: [n for n in re.findall(r'test/(pod-\d+)', '\n'.join(screen(terminal)))] ==
                       [f'pod-{i:02}' for i in range(12)], what='in order')
        terminal.type(b'q')
        self.assertEqual(terminal.end(), 0)
        self.assertIn(LEFT, terminal.shown())

    def test_an_interrupt_gives_the_terminal_back_too(self):
        for end in (b'\x03', signal.SIGTERM):
            terminal = Terminal('top')
            terminal.wait_for('userpod ')
            if isinstance(end, bytes):
                terminal.type(end)
            else:
                pid = int(cri.run('pgrep', '-n', '-f', f'{CTL} top'))
                os.kill(pid, end)
            self.assertEqual(terminal.end(), 0)
            self.assertTrue(terminal.shown().rstrip().endswith(LEFT), repr(terminal.shown()[-40:]))

    def test_names_cannot_harm_the_terminal(self):
        # Control characters are refused by the CRI; what turns the line around, and what is two columns wide, is not.
        self.container(self.pod('\u202e漢字' + 'x' * 120, log_directory=f'{self.logs}/odd'), LOOP)
        terminal = Terminal('top', '--interval', '0.2', columns=60)
        terminal.wait_for('漢字')
        self.assertNotIn('\u202e', terminal.shown())
        row = next(line for line in screen(terminal) if '漢字' in line)
        self.assertTrue(row.startswith('test/?漢字xx'), row)
        self.assertLessEqual(len(row) + 2, 60, 'two columns for each of the two')
        terminal.type(b'q')
        terminal.end()

    def test_a_restart_of_the_daemon_is_shown_and_survived(self):
        self.container(self.pod(), LOOP)
        terminal = Terminal('top', '--interval', '0.2')
        terminal.wait_for('test/pod')
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
        cri.wait_until(lambda: 'waiting for it' in '\n'.join(screen(terminal)), timeout=20, what='the absence told')
        self.assertIn('test/pod', '\n'.join(screen(terminal)), 'what was known stays')
        self.assertEqual(cri.run('systemctl', '--user', 'is-active', running.DAEMON, check=False), 'inactive', 'it is not started')
        running.restart_daemon()
        self.connect()
        cri.wait_until(lambda: 'waiting for it' not in '\n'.join(screen(terminal)) and 'test/pod' in '\n'.join(screen(terminal)),
                       timeout=20, what='figures again')
        terminal.type(b'q')
        self.assertEqual(terminal.end(), 0)

    def test_documents_one_a_line(self):
        self.container(self.pod(), LOOP)
        with subprocess.Popen([CTL, 'top', '--json', '--interval', '0.2'], stdout=subprocess.PIPE, text=True) as p:
            with contextlib.ExitStack() as stack:
                stack.callback(p.kill)
                samples = [json.loads(p.stdout.readline()) for _ in range(3)]
        self.assertEqual(len({s['time'] for s in samples}), 3)
        self.assertTrue(all('cpu' in s['pods'][0] for s in samples), 'rates from the first one on')


if __name__ == '__main__':
    running.main()
