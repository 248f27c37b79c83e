#!/usr/bin/python3
"""The test bed itself: a real user session, a registry that serves what it says, an oracle that sees what is left."""
import gzip
import hashlib
import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import cri

OCI = 'application/vnd.oci.image.manifest.v1+json'


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(url, **headers):
    try:
        answer = urllib.request.build_opener(NoRedirect).open(urllib.request.Request(url, headers=headers), timeout=20)
    except urllib.error.HTTPError as e:
        answer = e
    with answer:
        return answer.status, answer.headers, answer.read()


def digest(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


class Session(unittest.TestCase):
    def test_is_a_users_own(self):
        self.assertNotEqual(os.getuid(), 0)
        self.assertIn(cri.systemctl('is-system-running', check=False), ('running', 'degraded'))
        self.assertTrue(cri.bus_get('/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager', 'Version',
                                    service='org.freedesktop.systemd1'))

    def test_delegates_cgroups(self):
        with open('/proc/self/cgroup') as f:
            own = re.search(r'^0::(.*)$', f.read(), re.M)[1]
        path = f'/sys/fs/cgroup{own}/test-bed'
        os.mkdir(path)
        os.rmdir(path)


class Registry(unittest.TestCase):
    def setUp(self):
        if not cri.REGISTRY:
            self.skipTest('USERPOD_REGISTRY is not set')

    def test_layers_have_their_digests(self):
        base = f'http://{cri.REGISTRY}/v2/test/layers'
        manifest = json.loads(get(f'{base}/manifests/latest', Accept=OCI)[2])
        config = json.loads(get(f'{base}/blobs/{manifest["config"]["digest"]}')[2])
        self.assertEqual(len(manifest['layers']), 5)
        for layer, diff_id in zip(manifest['layers'], config['rootfs']['diff_ids']):
            data = get(f'{base}/blobs/{layer["digest"]}')[2]
            self.assertEqual((digest(data), len(data)), (layer['digest'], layer['size']))
            self.assertEqual(digest(gzip.decompress(data) if layer['mediaType'].endswith('gzip') else data), diff_id)

    def test_hostile_image_is_one(self):
        base = f'http://{cri.REGISTRY}/v2/hostile/wrong-digest'
        layer = json.loads(get(f'{base}/manifests/latest', Accept=OCI)[2])['layers'][0]
        self.assertNotEqual(digest(get(f'{base}/blobs/{layer["digest"]}')[2]), layer['digest'])

    def test_token_is_demanded_and_not_passed_on(self):
        base = f'http://{cri.TOKEN_REGISTRY}/v2/test/busybox'
        status, headers, _ = get(f'{base}/manifests/latest', Accept=OCI)
        self.assertEqual(status, 401)
        asked = dict(re.findall(r'(\w+)="([^"]*)"', headers['WWW-Authenticate']))
        token = json.loads(get(f'{asked["realm"]}?service={asked["service"]}&scope={asked["scope"]}')[2])['token']
        bearer = {'Authorization': f'Bearer {token}'}
        status, _, body = get(f'{base}/manifests/latest', Accept=OCI, **bearer)
        self.assertEqual(status, 200)
        status, headers, _ = get(f'{base}/blobs/{json.loads(body)["config"]["digest"]}', **bearer)
        self.assertEqual(status, 307)
        self.assertEqual(get(headers['Location'])[0], 200)
        self.assertEqual(get(headers['Location'], **bearer)[0], 400)
        self.assertEqual(get(f'http://{cri.TOKEN_REGISTRY}/v2/test/multi/manifests/latest', **bearer)[0], 401)


class Oracle(unittest.TestCase):
    def test_sees_what_is_left_and_only_that(self):
        oracle = ['/usr/bin/python3', f'{cri.ROOT}/tests/oracle']
        with tempfile.TemporaryDirectory(dir='/var/tmp') as d:
            subprocess.run([*oracle, 'snapshot', f'{d}/before'], check=True)
            with subprocess.Popen(['unshare', '-Urnm', 'sh', '-c', 'mount -n -t tmpfs none /mnt; echo; exec sleep 60'],
                                  stdout=subprocess.PIPE, process_group=0) as p:
                p.stdout.readline()
                left = subprocess.run([*oracle, 'check', '--wait', '0', f'{d}/before'], capture_output=True, text=True)
                p.kill()
            self.assertEqual(left.returncode, 1)
            for what in ('process: (sh|sleep) ', r'namespace: net:', r'mount: /mnt \(tmpfs'):
                self.assertRegex(left.stdout, re.compile('^' + what, re.M))
            after = subprocess.run([*oracle, 'check', f'{d}/before'], capture_output=True, text=True)
            self.assertEqual((after.returncode, after.stdout), (0, ''))


if __name__ == '__main__':
    unittest.main(verbosity=2)
