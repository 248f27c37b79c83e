#!/usr/bin/python3
"""An image of everything that unpacking must get right, seen from a container of it."""
import json
import os
import subprocess

import cri
import running

# Prints one JSON object a path; runs in the node, whose ids are those of the image, on the container's own root.
LOOK = r"""
import json, os, stat, sys
root, paths = sys.argv[1], json.load(sys.stdin)
kinds = {stat.S_IFREG: 'file', stat.S_IFDIR: 'dir', stat.S_IFLNK: 'symlink', stat.S_IFIFO: 'fifo'}
found = {}
for path in paths:
    full = os.path.join(root, path)
    try:
        s = os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        continue
    f = found[path] = {'type': kinds.get(stat.S_IFMT(s.st_mode), 'other'), 'mode': stat.S_IMODE(s.st_mode), 'uid': s.st_uid,
                       'gid': s.st_gid, 'nlink': s.st_nlink, 'inode': s.st_ino, 'size': s.st_size, 'mtime': s.st_mtime}
    if f['type'] == 'symlink':
        f['target'] = os.readlink(full)
        continue
    f['xattrs'] = {n: os.getxattr(full, n).hex() for n in os.listxattr(full)}
    if f['type'] == 'dir':
        f['entries'] = sorted(os.listdir(full))
    if f['type'] == 'file' and s.st_size < 4096:
        with open(full, 'rb') as file:
            f['content'] = file.read().decode()
    if f['type'] == 'file' and s.st_size == 256 * 8192:
        with open(full, 'rb') as file:
            f['whole'] = file.read() == bytes(range(256)) * 8192
json.dump(found, sys.stdout)
"""


class Looking(running.Running):
    """Compares what a container of test/layers sees with what the registry says of that image."""

    def look(self, mark, paths):
        """In the node, through the root of the container's process there, which has mark in its environment."""
        found = running.enter('sh', '-c', f'grep -ls TEST_MARK={mark} /proc/[0-9]*/environ; true').split()
        self.assertTrue(found)
        root = os.path.dirname(found[0]) + '/root'
        out = subprocess.run([f'{running.PREFIX}/bin/userpodctl', 'enter', '--', '/usr/bin/python3', '-c', LOOK, root],
                                 input=json.dumps(paths), capture_output=True, text=True, timeout=60)
        self.assertEqual(out.returncode, 0, out.stderr)
        return json.loads(out.stdout)

    def check_layers(self, image):
        """Of an image of those layers, in whatever format.  Returns a container of it."""
        directory = os.environ.get('USERPOD_REGISTRY_DIR')
        if not directory:
            self.skipTest('USERPOD_REGISTRY_DIR is not set')
        with open(f'{directory}/layers.json', encoding='utf-8') as f:
            expected = json.load(f)
        mark = f'unpack-{os.urandom(8).hex()}'
        container = self.container(self.pod(mark), 'trap "exit 0" TERM; echo ready; while :; do usleep 20000; done',
                                   image={'image': image},
                                   envs=[{'key': 'TEST_MARK', 'value': mark.encode()}])
        self.wait_for_line('ready', pod=mark)
        found = self.look(mark, [*expected['tree'], *expected['absent'], 'links/b'])
        self.assertEqual([p for p in expected['absent'] if p in found], [])
        for path, want in expected['tree'].items():
            with self.subTest(path):
                self.compare(found, path, want)
        self.assertEqual(found['links/a']['inode'], found['links/b']['inode'])
        self.assertEqual(found['data/untouched']['mtime'], expected['mtime'])
        self.assertTrue(found['large']['whole'])
        return container

    def compare(self, found, path, want):
        self.assertIn(path, found)
        got = found[path]
        for key in ('type', 'mode', 'uid', 'gid', 'nlink', 'size', 'target', 'content', 'entries'):
            if key in want:
                self.assertEqual(got[key], want[key], f'{path}: {key}')
        for name, value in want.get('xattrs', {}).items():
            self.assertEqual(bytes.fromhex(got['xattrs'].get(name, '')).decode(), value, f'{path}: {name}')
        for name in want.get('xattr_names', []):
            self.assertIn(name, got['xattrs'], path)


class Unpack(Looking):
    def setUp(self):
        super().setUp()
        self.layers = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/layers'}).image_ref
        self.addCleanup(lambda: self.cri.RemoveImage(image={'image': self.layers}))
        self.addCleanup(self.remove_pods)
        self.maxDiff = None

    def test_all_is_as_in_the_layers(self):
        container = self.check_layers(self.layers)
        # And from inside.
        got = self.cri.ExecSync(container_id=container, cmd=['stat', '-c', '%a %u %g %h', '/links/b'])
        self.assertEqual(got.stdout.decode(), '640 1000 2000 2\n')

    def test_a_container_changes_only_its_own_copy(self):
        pod = self.pod()
        first = self.container(pod, 'echo changed > /data/kept; rm -r /opaque; mkdir /opaque; echo x > /opaque/mine; rm /again; '
                                    'cat /data/kept; ls /opaque', 'first', image={'image': self.layers})
        cri.wait_until(lambda: self.state(first) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='first'), ['changed', 'mine'])
        second = self.container(pod, 'cat /data/kept; ls /opaque; echo $(cat /again)', 'second', image={'image': self.layers})
        cri.wait_until(lambda: self.state(second) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='second'), ['second', 'new', 'fourth'])


if __name__ == '__main__':
    running.main()
