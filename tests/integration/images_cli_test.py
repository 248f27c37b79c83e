#!/usr/bin/python3
"""userpodctl images, pull, rmi and image ...: what they print, ask and end with, on a terminal and elsewhere."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading

import cri
import running
from terminal import CTL, ESCAPE, Terminal

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from lying_registry import LyingRegistry  # noqa: E402
from registry_images import Layer  # noqa: E402



def layer(text, size=0):
    content = Layer().file('text', text)
    return (content.file('noise', random.Random(text).randbytes(size)) if size else content).bytes()


def ctl(*arguments, stdin='', **more):
    """Exit status, standard output, standard error."""
    p = subprocess.run([CTL, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False, **more)
    return p.returncode, p.stdout, p.stderr


class ImagesCli(running.Running):
    def setUp(self):
        super().setUp()
        self.registry = LyingRegistry()
        self.registry.__enter__()
        self.addCleanup(self.registry.__exit__)
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)

    def tearDown(self):
        self.go_on.set()
        self.remove_pods()
        for image in self.cri.ListImages().images:
            if image.id != self.image:
                self.cri.RemoveImage(image={'image': image.id})

    def name(self, name):
        return f'{self.registry.address}/{name}:latest'

    def made(self, name, *layers, pull=True):
        self.registry.image(name, list(layers) or [layer(name)])
        return self.cri.PullImage(image={'image': self.name(name)}).image_ref if pull else self.name(name)

    def listed(self):
        return {i.id: i for i in self.cri.ListImages().images}

    def held(self, name):
        """An image of two layers; of the larger one half is sent, little more, and the rest after self.go_on.  Name and digest."""
        self.made(name, layer(f'{name} small'), layer(name, 1_000_000), pull=False)
        digest = next(d for d, data in self.registry.blobs.items() if len(data) > 1_000_000)

        def half(handler):
            data = self.registry.blobs[digest]
            handler.send_response(200)
            handler.send_header('Content-Length', str(len(data)))
            handler.end_headers()
            sent, half = 0, len(data) // 2
            try:
                while not self.go_on.is_set() and sent < len(data) - 1000:
                    piece = data[sent:sent + (len(data) // 40 if sent < half else 100)]
                    handler.wfile.write(piece)
                    sent += len(piece)
                    self.go_on.wait(0.02 if sent < half else 0.2)   # what came is told, at the latest, when more comes
                handler.wfile.write(data[sent:])
            except ConnectionError:
                pass
        self.registry.answers[f'/v2/{name}/blobs/{digest}'] = half
        return self.name(name), digest

    # ---- images

    def test_lists(self):
        image = self.made('listed')
        shown = self.listed()[image]
        digest = shown.repo_digests[0]
        for command in (['images'], ['image', 'ls']):
            status, out, err = ctl(*command)
            self.assertEqual((status, err), (0, ''))
            self.assertEqual(out.split('\n')[0].split(), ['ID', 'NAMES', 'SIZE', 'USED', 'BY', 'PINNED', 'CREATED'])
            line = next(l for l in out.split('\n') if l.startswith(image[7:19]))
            self.assertIn(f'  {self.name("listed")}  ', line)
            self.assertNotIn('sha256', out)
            self.assertNotIn('\x1b', out)
            self.assertIn(image, ctl(*command, '--no-trunc')[1])
            self.assertIn(digest[:digest.index('@') + 20], ctl(*command, '--digests')[1])
            self.assertNotIn(digest, ctl(*command, '--digests')[1])
            self.assertIn(digest, ctl(*command, '--digests', '--no-trunc')[1])
            self.assertEqual(set(ctl(*command, '--quiet')[1].split()), {i[7:19] for i in self.listed()})
            self.assertEqual(set(ctl(*command, '-q', '--no-trunc')[1].split()), set(self.listed()))
            told = {i['Id']: i for i in json.loads(ctl(*command, '--json')[1])}
            self.assertEqual(set(told), set(self.listed()))
            self.assertEqual((told[image]['RepoTags'], told[image]['RepoDigests'], told[image]['Pinned']), ([self.name('listed')], [digest], False))
            self.assertEqual(ctl(*command, '--quiet', '--json')[0], 64)
        self.assertEqual(json.loads(ctl('image', 'inspect', self.name('listed'))[1])['Id'], image)
        self.assertEqual(ctl('image', 'inspect', 'f' * 64)[0], 66)
        self.assertEqual(ctl('image')[0], 64)

    def test_without_a_tag(self):
        old = self.made('moved')
        self.made('moved', layer('newer'))
        # A reply of the CRI does not wait until the bus knows.
        line = rf'{old[7:19]}  {re.escape(self.registry.address)}/moved@sha256:[0-9a-f]{{12}}  '
        cri.wait_until(lambda: re.search(line, ctl('images')[1]), what=line)

    # ---- rmi

    def test_rmi(self):
        first, second = self.made('first'), self.made('second')
        self.registry.manifests['first', 'other'] = self.registry.manifests['first', 'latest']
        other = self.name('first').replace(':latest', ':other')
        self.cri.PullImage(image={'image': other})
        status, out, err = ctl('rmi', self.name('first'), 'nothing-here', second[7:20])
        self.assertEqual(status, 66)
        self.assertEqual(out, f'{self.name("first")}: removed\n  with its name {other}\n{second[7:20]}: removed\n'
                              f'  with its name {self.name("second")}\n')
        self.assertIn('nothing-here', err)
        self.assertEqual(set(self.listed()) & {first, second}, set())
        third = self.made('third')
        told = json.loads(ctl('image', 'rm', '--json', third)[1])
        self.assertEqual((told['result'], told['id'], told['names']), ('removed', third, [self.name('third')]))

    def test_rmi_of_what_is_used(self):
        pod = self.pod()
        made = self.container(pod, 'true', name='holder', start=False)
        status, out, err = ctl('rmi', running.IMAGE)
        self.assertEqual((status, out), (75, ''))
        self.assertIn(f'used by container {made} (holder); remove that first', err)
        self.assertEqual(json.loads(ctl('rmi', '--json', running.IMAGE)[2])['error'], 'Busy')
        self.assertIn(self.image, self.listed())

    # ---- prune

    def test_prune(self):
        old = self.made('moved')
        new = self.made('moved', layer('newer'))
        self.container(self.pod(), 'true', start=False)
        status, out, err = ctl('image', 'prune')
        self.assertEqual((status, out), (64, ''))
        self.assertIn('--yes', err)
        self.assertEqual(ctl('image', 'prune', '--json')[0], 64)
        size = self.listed()[old].size
        dry = json.loads(ctl('image', 'prune', '--dry-run', '--json')[1])
        self.assertEqual(dry, {'images': [old], 'bytes': size, 'dry-run': True})
        status, out, err = ctl('image', 'prune', '--dry-run')
        self.assertRegex(out, rf'^{old[7:19]}  .*\nwould remove 1 images, \d')
        self.assertIn(old, self.listed())
        status, out, err = ctl('image', 'prune', '-y')
        self.assertEqual((status, err), (0, ''))
        self.assertRegex(out, rf'^{old[7:19]}  .*\nremoved 1 images, \d')
        self.assertEqual(set(self.listed()), {new, self.image})
        self.assertRegex(ctl('image', 'prune', '-y')[1], r'^removed 0 images, 0 B\n$')
        self.assertEqual(json.loads(ctl('image', 'prune', '--all', '--yes', '--json')[1])['images'], [new])
        self.assertEqual(set(self.listed()), {self.image})

    def test_prune_asks(self):
        old = self.made('moved')
        self.made('moved', layer('newer'))
        refused = Terminal('image', 'prune')
        refused.wait_for('[y/N]')
        self.assertIn(old[7:19], refused.shown())
        self.assertIn('This removes 1 images', refused.shown())
        refused.type(b'n\n')
        self.assertEqual(refused.end(), 75)
        self.assertIn('nothing was removed', refused.shown())
        self.assertIn(old, self.listed())
        agreed = Terminal('image', 'prune')
        agreed.wait_for('[y/N]')
        agreed.type(b'y\n')
        self.assertEqual(agreed.end(), 0)
        self.assertIn('removed 1 images', agreed.shown())
        self.assertNotIn(old, self.listed())
        nothing = Terminal('image', 'prune')
        self.assertEqual(nothing.end(), 0)
        self.assertNotIn('[y/N]', nothing.shown())

    # ---- pull, where there is no terminal

    def test_pull_as_lines(self):
        name, digest = self.held('lines')
        p = subprocess.Popen([CTL, 'pull', name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines = [p.stderr.readline()]
        while lines[-1] and lines[-1] != 'downloading\n':
            lines.append(p.stderr.readline())
        self.go_on.set()
        lines += p.stderr.readlines()                # not communicate(): it does not know what readline() holds
        out = p.stdout.read()
        p.stdout.close()
        p.stderr.close()
        self.assertEqual(p.wait(60), 0, lines)
        self.assertEqual(out.strip(), next(i for i, shown in self.listed().items() if name in shown.repo_tags))
        self.assertEqual(len(lines), len(set(lines)), lines)
        self.assertEqual(lines[-1], 'done\n')
        self.assertEqual(len([l for l in lines if l.startswith('layer ')]), 2, lines)
        self.assertTrue(any(l.startswith(f'layer {digest[7:19]}: 1.0 MB') for l in lines), lines)
        self.assertEqual(re.sub('[ -~\n]', '', ''.join(lines)), '', 'control characters')

    def test_pull_quietly_and_as_json(self):
        name = self.made('quiet', pull=False)
        status, out, err = ctl('pull', '--quiet', name)
        image = next(i for i, shown in self.listed().items() if name in shown.repo_tags)
        self.assertEqual((status, out, err), (0, f'{image}\n', ''))
        name, digest = self.held('json')
        threading.Timer(1, self.go_on.set).start()
        status, out, err = ctl('image', 'pull', '--json', name)
        self.assertEqual((status, err), (0, ''))
        objects = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(objects[-1]['id'], next(i for i, shown in self.listed().items() if name in shown.repo_tags))
        self.assertEqual(objects[-2]['stage'], 'done')
        self.assertEqual(objects[-2]['done'], objects[-2]['total'])
        self.assertIn(digest, [l['digest'] for l in objects[-2]['layers']])
        self.assertTrue(all(set(o) == {'stage', 'done', 'total', 'rate', 'layers'} for o in objects[:-1]))
        status, out, err = ctl('pull', '--json', self.name('nothing'))
        self.assertEqual((status, json.loads(err)['error']), (66, 'ManifestUnknown'))

    def test_credentials(self):
        if not cri.TOKEN_REGISTRY:
            self.skipTest('USERPOD_TOKEN_REGISTRY is not set')
        name = f'{cri.TOKEN_REGISTRY}/private/test/user:latest'
        self.assertEqual(ctl('pull', '-q', name)[0], 77)
        status, out, err = ctl('pull', '-u', 'test', '--password-stdin', name, stdin='wrong\n')
        self.assertEqual((status, out), (77, ''))
        self.assertNotIn('wrong\n', err)
        status, out, err = ctl('pull', '-q', '-u', 'test', '--password-stdin', name, stdin='secret\n')
        self.assertEqual((status, err), (0, ''))
        for wrong in (['-u', 'test'], ['--password-stdin'], ['--identity-token-stdin', '-u', 'test', '--password-stdin']):
            self.assertEqual(ctl('pull', *wrong, name)[0], 64, wrong)

    # ---- pull, on a terminal

    def test_bars(self):
        name, digest = self.held('bars')
        terminal = Terminal('pull', name, columns=100)
        terminal.wait_for('kB of 1.0 MB', '\x1b[32m')  # the small layer is done
        for bar in (digest[7:19], 'total       '):
            cri.wait_until(lambda b=bar: f'{b} [====' in ESCAPE.sub('', terminal.shown()), timeout=30, what=f'a bar of {bar}')
        terminal.resize(30, 10)                      # it must go on within what there is now
        before = len(terminal.shown())
        self.go_on.set()
        self.assertEqual(terminal.end(), 0)
        text = terminal.shown()
        self.assertTrue(text.endswith(next(i for i, shown in self.listed().items() if name in shown.repo_tags) + '\r\n'), text)
        self.assertIn('done 127.0.0.1', text[before:])
        last = ESCAPE.sub('', text.rpartition('\x1b[J')[0].rpartition('A')[2])
        for line in last.split('\r\n'):
            self.assertLess(len(line), 30, repr(line))
        # Up over as many rows as the lines of before have now that the window is narrower: never less than they had.
        self.assertGreaterEqual(max(int(n) for n in re.findall(r'\x1b\[(\d+)A', text[before:])), 4)

    def test_no_color_and_dumb_terminals(self):
        name, _ = self.held('plain')
        self.go_on.set()
        plain = Terminal('pull', name, environment={'NO_COLOR': '1'})
        self.assertEqual(plain.end(), 0)
        self.assertIn('[===', plain.shown())
        self.assertNotRegex(plain.shown(), r'\x1b\[[0-9;]*m')
        dumb = Terminal('pull', name, environment={'TERM': 'dumb'})
        self.assertEqual(dumb.end(), 0)
        self.assertNotIn('\x1b', dumb.shown())
        self.assertIn('done\r\n', dumb.shown())

    def test_interrupt(self):
        before = running.stored()
        name, _ = self.held('interrupted')
        terminal = Terminal('pull', name)
        terminal.wait_for('kB of 1.0 MB')
        terminal.type(b'\x03')
        self.assertEqual(terminal.end(), 75)
        self.assertIn(f'canceling {name}', terminal.shown())
        self.assertRegex(terminal.shown(), r'userpodctl: .*cancel')
        self.assertEqual(set(self.listed()), {self.image})
        self.go_on.set()
        # The layer that was complete waits for the next pull.
        self.assertRegex(ctl('image', 'prune', '--yes')[1], r'^removed 0 images, \d')
        self.assertEqual(running.stored(), before)
        # Elsewhere as a line.
        self.go_on.clear()
        p = subprocess.Popen([CTL, 'pull', name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while p.stderr.readline() != 'downloading\n':
            self.assertIsNone(p.poll())
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        self.assertEqual((p.returncode, out), (75, ''))
        self.assertIn('canceling\n', err)


running.main()
