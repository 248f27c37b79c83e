// registries.conf: what each key means, what is refused, and which files count.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "daemon/images/registries/registries_conf.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

const std::string kFile = "/etc/containers/registries.conf";
const std::string kDigest = "sha256:" + std::string(64, 'a');

std::shared_ptr<const Registries> registriesOf(const std::string& text) {
  auto conf = parseRegistriesConf(text, kFile, ConfKind::Registries);
  EXPECT_TRUE(conf) << text << conf.error().text();
  return conf ? makeRegistries(std::move(*conf)) : nullptr;
}

std::string textOf(const Reference& name) {
  return name.digest.empty() ? name.tagged() : name.digested(name.digest);
}

// "name: endpoint endpoint", one candidate after the other; '!' after an endpoint: insecure, '~': a mirror. Or the
// error.
std::string told(const Registries& registries, const std::string& text) {
  auto reference = parseReference(text);
  if (!reference) return reference.error().text();
  auto candidates = registries.candidates(*reference);
  if (!candidates) return std::string(codeName(candidates.error().code())) + ": " + candidates.error().text();
  std::string list;
  for (const auto& candidate : *candidates) {
    list += (list.empty() ? "" : "; ") + textOf(candidate.name) + ":";
    for (const auto& place : candidate.endpoints)
      list += " " + place.host + "/" + place.path + (place.insecure ? "!" : "") + (place.mirror ? "~" : "");
  }
  return list;
}

std::string told(const std::string& conf, const std::string& text) {
  auto registries = registriesOf(conf);
  return registries ? told(*registries, text) : "";
}

std::vector<std::string> namesOf(const std::string& conf, const std::string& text) {
  std::vector<std::string> names;
  for (const auto& name : registriesOf(conf)->names(*parseReference(text))) names.push_back(textOf(name));
  return names;
}

using Texts = std::vector<std::string>;

TEST(RegistriesConf, NothingConfigured) {
  EXPECT_EQ(told("", "busybox"), "docker.io/library/busybox:latest: docker.io/library/busybox");
  EXPECT_EQ(told("", "team/app:2"), "docker.io/team/app:2: docker.io/team/app");
  EXPECT_EQ(told("", "index.docker.io/busybox"), "docker.io/library/busybox:latest: docker.io/library/busybox");
  EXPECT_EQ(told("", "docker.io/a/b"), "docker.io/a/b:latest: docker.io/a/b");
  EXPECT_EQ(told("", "localhost/x"), "localhost/x:latest: localhost/x");
  EXPECT_EQ(told("", "example.com/x:1@" + kDigest), "example.com/x@" + kDigest + ": example.com/x");
  EXPECT_EQ(told("", "[::1]:5000/x"), "[::1]:5000/x:latest: [::1]:5000/x");
}

TEST(RegistriesConf, Loopback) {
  for (const auto& [name, loopback] : std::map<std::string, bool>{{"localhost/x", true},
                                                                  {"localhost:5000/x", true},
                                                                  {"127.0.0.1:5000/x", true},
                                                                  {"127.9.9.9/x", true},
                                                                  {"[::1]:5000/x", true},
                                                                  {"[::2]:5000/x", false},
                                                                  {"128.0.0.1/x", false},
                                                                  {"127.example.com/x", false},
                                                                  {"localhost.example.com/x", false}}) {
    auto candidates = registriesOf("")->candidates(*parseReference(name));
    EXPECT_EQ((*candidates)[0].endpoints[0].loopback, loopback) << name;
  }
}

TEST(RegistriesConf, PrefixAndLocation) {
  struct Case {
    std::string table, name, told;
  };
  const Case cases[] = {
      {"location = 'a.b'", "a.b/x", "a.b/x:latest: a.b/x"},
      {"location = 'a.b/'\ninsecure = true", "a.b/x", "a.b/x:latest: a.b/x!"},
      {"prefix = 'a.b'\ninsecure = true", "a.b/x", "a.b/x:latest: a.b/x!"},  // location is prefix unless given
      {"prefix = ''\nlocation = 'a.b'\ninsecure = true", "a.b/x", "a.b/x:latest: a.b/x!"},
      {"prefix = 'a.b'\nlocation = 'c.d/e'", "a.b/x/y:1", "a.b/x/y:1: c.d/e/x/y~"},
      {"prefix = 'a.b/x'\nlocation = 'c.d/e'", "a.b/x/y", "a.b/x/y:latest: c.d/e/y~"},
      {"prefix = 'a.b/x'\nlocation = 'c.d/e'", "a.b/x", "a.b/x:latest: c.d/e~"},
      {"prefix = 'a.b/x'\nlocation = 'a.b/e'", "a.b/x", "a.b/x:latest: a.b/e"},
      {"prefix = 'a.b/x'\nlocation = 'c.d/e'", "a.b/xy", "a.b/xy:latest: a.b/xy"},
      {"prefix = 'a.b/x'\nlocation = 'c.d/e'", "a.b/x@" + kDigest, "a.b/x@" + kDigest + ": c.d/e~"},
      {"prefix = 'a.b/x:1'\nlocation = 'c.d/e'", "a.b/x:1", "a.b/x:1: c.d/e~"},
      {"prefix = 'a.b/x:1'\nlocation = 'c.d/e'", "a.b/x:12", "a.b/x:12: a.b/x"},
      {"prefix = 'a.b/x@" + kDigest + "'\nlocation = 'c.d/e'", "a.b/x@" + kDigest, "a.b/x@" + kDigest + ": c.d/e~"},
      {"prefix = 'a.b'\nlocation = 'c.d'", "a.b.c/x", "a.b.c/x:latest: a.b.c/x"},
      {"prefix = 'a.b'\nlocation = 'c.d'", "a.b:5000/x", "a.b:5000/x:latest: a.b:5000/x"},  // another registry
      {"prefix = 'a.b:5000'\nlocation = 'c.d:1'", "a.b:5000/x", "a.b:5000/x:latest: c.d:1/x~"},
      {"prefix = 'A.B'\nlocation = 'c.d'", "a.b/x", "a.b/x:latest: c.d/x~"},
      {"prefix = 'a.b'\nlocation = 'c.d'", "A.B/x", "A.B/x:latest: c.d/x~"},
      {"prefix = 'a.b'\nlocation = 'docker.io'", "a.b/x", "a.b/x:latest: docker.io/library/x~"},
      {"prefix = 'docker.io/library'\nlocation = 'c.d/hub'", "docker.io/x", "docker.io/library/x:latest: c.d/hub/x~"},
      {"prefix = 'docker.io'\nlocation = 'c.d/hub'", "x", "docker.io/library/x:latest: c.d/hub/library/x~"},
      {"prefix = 'index.docker.io'\nlocation = 'c.d'", "x", "docker.io/library/x:latest: c.d/library/x~"},
      {"prefix = '*.b'\ninsecure = true", "a.b/x", "a.b/x:latest: a.b/x!"},
      {"prefix = '*.b'\nlocation = ''\ninsecure = true", "a.b/x", "a.b/x:latest: a.b/x!"},
      {"prefix = '*.b'\ninsecure = true", "a.c.b:5/x", "a.c.b:5/x:latest: a.c.b:5/x!"},
      {"prefix = '*.b.c'\ninsecure = true", "b.c/x", "b.c/x:latest: b.c/x"},
      {"prefix = '*.b.c'\ninsecure = true", "a.b.c.d/x", "a.b.c.d/x:latest: a.b.c.d/x"},
      {"prefix = '*.b.c'\ninsecure = true", "a.xb.c/x", "a.xb.c/x:latest: a.xb.c/x"},
      {"prefix = '*.b.c'\ninsecure = true", "a.d/x.b.c", "a.d/x.b.c:latest: a.d/x.b.c"},
      {"prefix = '*.b.c'\nlocation = 'c.d/e'", "a.b.c/x/y", "a.b.c/x/y:latest: c.d/e/x/y~"},
      {"prefix = '*.b.c'\nlocation = 'c.d'", "a.b.c:5/x", "a.b.c:5/x:latest: c.d:5/x~"},
  };
  for (const auto& one : cases) EXPECT_EQ(told("[[registry]]\n" + one.table, one.name), one.told) << one.table;
}

TEST(RegistriesConf, LongestPrefixCounts) {
  std::string conf;
  for (const auto* prefix : {"a.b", "a.b/x/y", "a.b/x", "*.b", "a.b/x/y/z:1"})
    conf += "[[registry]]\nprefix = '" + std::string(prefix) + "'\nlocation = 'r" +
            std::to_string(std::string(prefix).size()) + ".d/to'\n";
  EXPECT_EQ(told(conf, "a.b/q"), "a.b/q:latest: r3.d/to/q~");
  EXPECT_EQ(told(conf, "a.b/x/q"), "a.b/x/q:latest: r5.d/to/q~");
  EXPECT_EQ(told(conf, "a.b/x/y/z"), "a.b/x/y/z:latest: r7.d/to/z~");
  EXPECT_EQ(told(conf, "a.b/x/y/z:1"), "a.b/x/y/z:1: r11.d/to~");
  EXPECT_EQ(told(conf, "c.b/q"), "c.b/q:latest: r3.d/to/q~");
}

TEST(RegistriesConf, Mirrors) {
  const std::string conf =
      "[[registry]]\nprefix = 'a.b/n'\nlocation = 'a.b/m'\n"
      "[[registry.mirror]]\nlocation = 'one.local/p'\ninsecure = true\n"
      "[[registry.mirror]]\nlocation = 'two.local/'\npull-from-mirror = 'digest-only'\n"
      "[[registry.mirror]]\nlocation = 'three.local'\npull-from-mirror = 'tag-only'\n"
      "[[registry.mirror]]\nlocation = 'four.local'\npull-from-mirror = 'all'\n"
      "[[registry.mirror]]\nlocation = 'a.b/mine'\npull-from-mirror = ''\n";
  EXPECT_EQ(told(conf, "a.b/n/x"), "a.b/n/x:latest: one.local/p/x!~ three.local/x~ four.local/x~ a.b/mine/x~ a.b/m/x");
  EXPECT_EQ(told(conf, "a.b/n/x@" + kDigest),
            "a.b/n/x@" + kDigest + ": one.local/p/x!~ two.local/x~ four.local/x~ a.b/mine/x~ a.b/m/x");
  EXPECT_EQ(told(conf, "a.b/n/x:1@" + kDigest),
            "a.b/n/x@" + kDigest + ": one.local/p/x!~ two.local/x~ four.local/x~ a.b/mine/x~ a.b/m/x");
  EXPECT_EQ(told(conf, "a.b/o"), "a.b/o:latest: a.b/o");
  const std::string byDigest =
      "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\nmirror = [{location = 'm.n'}]";
  EXPECT_EQ(told(byDigest, "a.b/x"), "a.b/x:latest: a.b/x");
  EXPECT_EQ(told(byDigest, "a.b/x@" + kDigest), "a.b/x@" + kDigest + ": m.n/x~ a.b/x");
}

TEST(RegistriesConf, Blocked) {
  const std::string conf =
      "[[registry]]\nprefix = 'a.b/bad'\nblocked = true\n"
      "[[registry]]\nprefix = '*.evil.com'\nblocked = true\n"
      "[[registry]]\nlocation = 'c.d'\nmirror = [{location = 'a.b/bad'}, {location = 'a.b/good'}]\n"
      "[[registry]]\nprefix = 'e.f'\nlocation = 'a.b/bad/inside'\n"
      "unqualified = 1\n";
  EXPECT_EQ(told(conf, "a.b/bad"), "RegistryDenied: a.b/bad is blocked: a.b/bad at /etc/containers/registries.conf:1");
  EXPECT_EQ(told(conf, "a.b/bad/x:1"),
            "RegistryDenied: a.b/bad/x is blocked: a.b/bad at /etc/containers/registries.conf:1");
  EXPECT_EQ(told(conf, "x.y.EVIL.com:5000/x"),
            "RegistryDenied: x.y.EVIL.com:5000/x is blocked: *.evil.com at /etc/containers/registries.conf:4");
  EXPECT_EQ(told(conf, "a.b/badly"), "a.b/badly:latest: a.b/badly");
  // Neither by a mirror nor by a location.
  EXPECT_EQ(told(conf, "c.d/x"), "c.d/x:latest: a.b/good/x~ c.d/x");
  EXPECT_EQ(told(conf, "e.f/x"), "RegistryDenied: e.f/x is blocked: a.b/bad at /etc/containers/registries.conf:1");
  EXPECT_EQ(namesOf(conf, "a.b/bad"), Texts{"a.b/bad:latest"});
  // Of several search registries the others remain; of none, the first is named.
  const std::string search =
      "unqualified-search-registries = ['a.b', 'c.d']\n[[registry]]\nlocation = 'a.b'\nblocked = true\n";
  EXPECT_EQ(told(search, "x"), "c.d/x:latest: c.d/x");
  EXPECT_EQ(told(search + "[[registry]]\nlocation = 'c.d'\nblocked = true\n", "x"),
            "RegistryDenied: a.b/x is blocked: a.b at /etc/containers/registries.conf:2");
}

TEST(RegistriesConf, RewritingThatLeadsNowhere) {
  const std::string what = " makes no repository of a.b/x; prefix and location must end at the same part of the name";
  EXPECT_EQ(told("[[registry]]\nprefix = 'a.b/x'\nlocation = 'c.d'", "a.b/x"),
            "ConfigInvalid: /etc/containers/registries.conf:1: location c.d" + what);
  EXPECT_EQ(told("[[registry]]\nlocation = 'a.b/x'\nmirror = [{location = 'c.d:5'}]", "a.b/x"),
            "ConfigInvalid: /etc/containers/registries.conf:1: location c.d:5" + what);
  EXPECT_EQ(told("[[registry]]\nprefix = 'a.b/x'\nlocation = 'c.d'", "a.b/x/y"), "a.b/x/y:latest: c.d/y~");
}

TEST(ShortNames, SearchRegistriesAndModes) {
  const std::string two = "unqualified-search-registries = ['a.b', 'docker.io', 'a.b/']\n";
  const std::string both = "a.b/x:1: a.b/x; docker.io/library/x:1: docker.io/library/x";
  EXPECT_EQ(told(two, "x:1"), both);
  EXPECT_EQ(told(two + "short-name-mode = 'permissive'", "x:1"), both);
  EXPECT_EQ(told(two + "short-name-mode = ''", "x:1"), both);
  EXPECT_EQ(told(two + "short-name-mode = 'disabled'", "x:1"), both);
  EXPECT_EQ(told(two + "short-name-mode = 'enforcing'", "x:1"),
            "InvalidArgument: short name x: it may be of a.b, docker.io (/etc/containers/registries.conf:1), and "
            "short-name-mode is enforcing in /etc/containers/registries.conf:2; write the full name, REGISTRY/x, or an "
            "alias into [aliases] of registries.conf");
  EXPECT_EQ(told(two + "short-name-mode = 'enforcing'", "a.b/x:1"), "a.b/x:1: a.b/x");
  EXPECT_EQ(told("unqualified-search-registries = ['a.b:5']\nshort-name-mode = 'enforcing'", "t/x"),
            "a.b:5/t/x:latest: a.b:5/t/x");
  EXPECT_EQ(told("short-name-mode = 'enforcing'", "x"), "docker.io/library/x:latest: docker.io/library/x");
  EXPECT_EQ(told("unqualified-search-registries = []", "x"),
            "InvalidArgument: short name x: there is no alias, and unqualified-search-registries is empty in "
            "/etc/containers/registries.conf:1; write the full name, REGISTRY/x, or an alias into [aliases] of "
            "registries.conf");
  EXPECT_EQ(
      told("unqualified-search-registries = ['a.b']\n[[registry]]\nlocation = 'a.b'\nmirror = [{location = 'm.n'}]",
           "x@" + kDigest),
      "a.b/x@" + kDigest + ": m.n/x~ a.b/x");
  EXPECT_NE(told("unqualified-search-registries = ['a.b']", std::string(253, 'a')).find("longer than 255"),
            std::string::npos);
  EXPECT_EQ(namesOf(two + "short-name-mode = 'enforcing'", "x"),
            (Texts{"localhost/x:latest", "a.b/x:latest", "docker.io/library/x:latest"}));
  EXPECT_EQ(namesOf("unqualified-search-registries = []", "x:1"), Texts{"localhost/x:1"});
}

TEST(ShortNames, Aliases) {
  const std::string conf =
      "unqualified-search-registries = ['a.b', 'c.d']\nshort-name-mode = 'enforcing'\n"
      "[aliases]\nx = 'q.r/s/t'\n'team/y' = 'docker.io/z'\ngone = ''\nhub = 'index.docker.io/n/h'\nlocal = "
      "'localhost/l'\n"
      "[[registry]]\nprefix = 'q.r'\nlocation = 'u.v'\n";
  EXPECT_EQ(told(conf, "x"), "q.r/s/t:latest: u.v/s/t~");
  EXPECT_EQ(told(conf, "x:1"), "q.r/s/t:1: u.v/s/t~");
  EXPECT_EQ(told(conf, "x:1@" + kDigest), "q.r/s/t@" + kDigest + ": u.v/s/t~");
  EXPECT_EQ(told(conf, "team/y"), "docker.io/library/z:latest: docker.io/library/z");
  EXPECT_EQ(told(conf, "hub"), "docker.io/n/h:latest: docker.io/n/h");
  EXPECT_EQ(told(conf, "local"), "localhost/l:latest: localhost/l");
  EXPECT_EQ(told(conf, "gone").substr(0, 15), "InvalidArgument");
  EXPECT_EQ(told(conf, "x/y").substr(0, 15), "InvalidArgument");
  EXPECT_EQ(namesOf(conf, "x:1"), Texts{"q.r/s/t:1"});
}

TEST(RegistriesConf, Wrong) {
  struct Case {
    const char* text;
    const char* told;  // after "FILE:"
  };
  const std::string registry = "[[registry]]\nlocation = 'a.b'\n";
  const Case cases[] = {
      {"a = ", "1: "},
      {"\n\n'", "3: "},
      {"registry = 1", "1: registry: must be tables written [[registry]], with two brackets"},
      {"[registry]\nlocation = 'a.b'", "1: registry: must be tables written [[registry]], with two brackets"},
      {"[[registry.mirror]]\nlocation = 'a.b'", "1: registry: must be tables written"},
      {"registry = [1]", "1: registry: must be tables written [[registry]]"},
      {"[[registry]]", "1: registry: has neither prefix nor location; write"},
      {"[[registry]]\nprefix = ''", "1: registry: has neither prefix nor location"},
      {"[[registry]]\nlocation = 5", "2: location: must be a string, in quotation marks"},
      {"[[registry]]\nlocation = 'https://a.b'", "2: location: \"https://a.b\" has a scheme; write"},
      {"[[registry]]\nlocation = 'http://a.b/c'", "2: location: \"http://a.b/c\" has a scheme"},
      {"[[registry]]\nlocation = '/'", "2: location: "},
      {"[[registry]]\nlocation = 'nodots'", "2: location: \"nodots\" does not begin with a registry: a host with"},
      {"[[registry]]\nlocation = 'HOST/x'", "2: location: \"HOST/x\" does not begin with a registry"},
      {"unqualified-search-registries = ['HOST']", "1: unqualified-search-registries: \"HOST\" is not HOST[:PORT]"},
      {"[[registry]]\nlocation = 'a b.c'", "2: location: "},
      {"[[registry]]\nlocation = 'a.b//c'", "2: location: "},
      {"[[registry]]\nlocation = 'a.b/C'", "2: location: "},
      {"[[registry]]\nlocation = 'a.b:99999'", "2: location: "},
      {"[[registry]]\nlocation = 'a.b/../c'", "2: location: "},
      {"[[registry]]\nlocation = 'a.b/c:1'", "2: location: \"a.b/c:1\" has a tag or a digest; those of"},
      {"[[registry]]\nlocation = '*.a.b'", "2: location: \"*.a.b\" has a wildcard; only a prefix may"},
      {"[[registry]]\nprefix = 'a.*.b'", "2: prefix: \"a.*.b\" has a wildcard; only a prefix may, as in *.example.com"},
      {"[[registry]]\nprefix = '*.a.b/c'", "2: prefix: \"*.a.b/c\" is not of the form *.example.com"},
      {"[[registry]]\nprefix = '*.a.b:5'", "2: prefix: \"*.a.b:5\" is not of the form *.example.com"},
      {"[[registry]]\nprefix = '*.*.b'", "2: prefix: \"*.*.b\" is not of the form *.example.com"},
      {"[[registry]]\nprefix = '*.'", "2: prefix: \"*.\" is not of the form *.example.com"},
      {"[[registry]]\nprefix = ['a.b']", "2: prefix: must be a string"},
      {"[[registry]]\nlocation = 'a.b'\ninsecure = 'true'", "3: insecure: must be true or false, without"},
      {"[[registry]]\nlocation = 'a.b'\nblocked = 1", "3: blocked: must be true or false"},
      {"[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = 'no'",
       "3: mirror-by-digest-only: must be true or false"},
      {"[[registry]]\nlocation = 'a.b'\npull-from-mirror = 'all'",
       "3: pull-from-mirror: belongs to a mirror; write it"},
      {"[[registry]]\nlocation = 'a.b'\nmirror = 'c.d'", "3: mirror: must be tables written [[registry.mirror]]"},
      {"[[registry]]\nlocation = 'a.b'\nmirror = ['c.d']", "3: mirror: must be tables written [[registry.mirror]]"},
      {"[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\n", "3: mirror: has no location; write"},
      {"[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = ''", "3: mirror: has no location"},
      {"[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\ninsecure = 0", "5: insecure: must be"},
      {"[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'digest'",
       "5: pull-from-mirror: \"digest\" is not one of all, digest-only, tag-only"},
      {"[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'c.d'\n"
       "pull-from-mirror = 'all'",
       "6: pull-from-mirror: contradicts mirror-by-digest-only of the registry at line 1; remove one of them"},
      {"[[registry]]\nprefix = 'a.b'\nlocation = 'l.m'\ninsecure = true\n[[registry]]\nprefix = 'c.d'\nlocation = "
       "'l.m'",
       "5: insecure: contradicts /etc/containers/registries.conf:1, which has the same location l.m; make them equal"},
      {"[[registry]]\nprefix = 'a.b'\nlocation = 'l.m'\nblocked = true\n[[registry]]\nlocation = 'l.m'",
       "5: blocked: contradicts /etc/containers/registries.conf:1, which has the same location l.m"},
      {"[registries.search]\nregistries = ['a.b']",
       "1: registries: this is version 1 of the format, which is not read; "
       "write unqualified-search-registries = [...]"},
      {"[registries.block]\nregistries = ['a.b']", "1: registries: this is version 1"},
      {"registries = ['a.b']", "1: registries: this is version 1"},
      {"unqualified-search-registries = 'a.b'",
       "1: unqualified-search-registries: must be a list of strings: [\"...\"]"},
      {"unqualified-search-registries = [1]", "1: unqualified-search-registries: must be a string"},
      {"unqualified-search-registries = ['a.b/c']", "1: unqualified-search-registries: \"a.b/c\" is not HOST[:PORT]"},
      {"unqualified-search-registries = ['docker']", "1: unqualified-search-registries: \"docker\" is not HOST[:PORT]"},
      {"unqualified-search-registries = ['']", "1: unqualified-search-registries: \"\" is not HOST[:PORT]"},
      {"unqualified-search-registries = ['https://a.b']", "1: unqualified-search-registries: \"https://a.b\" is not"},
      {"short-name-mode = 'prompt'", "1: short-name-mode: \"prompt\" is not one of enforcing, permissive, disabled"},
      {"short-name-mode = true", "1: short-name-mode: must be a string"},
      {"credential-helpers = 'pass'", "1: credential-helpers: must be a list of strings"},
      {"credential-helpers = ['../x']", "1: credential-helpers: \"../x\" is not the name of a helper: what follows"},
      {"additional-layer-store-auth-helper = 1", "1: additional-layer-store-auth-helper: must be a string"},
      {"aliases = 'x'", "1: aliases: must be a table written [aliases]"},
      {"[aliases]\nx = 1", "2: x: must be a string"},
      {"[aliases]\nx = 'y'", "2: x: \"y\" is not REGISTRY/NAME without tag and digest"},
      {"[aliases]\nx = 'a.b/y:1'", "2: x: \"a.b/y:1\" is not REGISTRY/NAME without tag and digest"},
      {"[aliases]\n'x:1' = 'a.b/y'", "2: x:1: is not a short name without registry, tag and digest"},
      {"[aliases]\n'a.b/x' = 'a.b/y'", "2: a.b/x: is not a short name without registry, tag and digest"},
      {"[aliases]\n'localhost/x' = 'a.b/y'", "2: localhost/x: is not a short name"},
      {"[aliases]\nx = 'a.b/y'\nx = 'a.b/z'", "3: "},
      {"\xff = 1", "1: "},
  };
  for (const auto& one : cases) {
    auto conf = parseRegistriesConf(one.text, kFile, ConfKind::Registries);
    ASSERT_FALSE(conf) << one.text;
    EXPECT_EQ(conf.error().code(), Code::ConfigInvalid) << one.text;
    EXPECT_EQ(conf.error().text().find(kFile + ":" + one.told), 0U) << one.text << "\n" << conf.error().text();
  }
}

TEST(RegistriesConf, Bounds) {
  auto codeOf = [](const std::string& text) {
    auto conf = parseRegistriesConf(text, kFile, ConfKind::Registries);
    return conf ? "" : conf.error().text();
  };
  std::string registries, mirrors = "[[registry]]\nlocation = 'a.b'\n", search, aliases = "[aliases]\n";
  for (int i = 0; i < 4097; ++i) registries += "[[registry]]\nlocation='h" + std::to_string(i) + ".b'\n";
  for (int i = 0; i < 65; ++i) mirrors += "[[registry.mirror]]\nlocation='h" + std::to_string(i) + ".b'\n";
  for (int i = 0; i < 65; ++i) search += "'h" + std::to_string(i) + ".b',";
  for (int i = 0; i < 16385; ++i) aliases += "a" + std::to_string(i) + " = 'a.b/c'\n";
  EXPECT_EQ(codeOf(registries), kFile + ":1: registry: more than 4096");
  EXPECT_EQ(codeOf(mirrors), kFile + ":3: mirror: more than 64 of one registry");
  EXPECT_EQ(codeOf("unqualified-search-registries = [" + search + "]"),
            kFile + ":1: unqualified-search-registries: has more than 64 entries");
  EXPECT_EQ(codeOf(aliases), kFile + ":1: aliases: more than 16384");
  EXPECT_EQ(codeOf(std::string((1U << 20) + 1, '\n')), kFile + ": has more than 1 MiB");
  std::string unknown;
  for (int i = 0; i < 1000; ++i) unknown += "k" + std::to_string(i) + " = 1\n";
  EXPECT_EQ(registriesOf(unknown)->warnings().size(), 51U);
}

TEST(RegistriesConf, Warnings) {
  auto registries = registriesOf(
      "unqualified-search-registry = ['a.b']\nfrobnicate = 1\nadditional-layer-store-auth-helper = 'x'\n"
      "[[registry]]\nlocation = 'a.b'\ninsecur = true\nmirror_by_digest_only = true\n"
      "[[registry]]\nlocation = 'a.b'\n"
      "[[registry]]\nlocation = 'c.d'\n[[registry.mirror]]\nlocation = 'e.f'\npull_from_mirror = 'all'\n"
      "[registries.search]\nregistries = []\n");
  Texts expected;
  for (const auto* text :
       {"3: additional-layer-store-auth-helper: is ignored: there is no additional layer store here",
        "2: frobnicate: is not a known key here and ignored; remove it",
        "15: registries: is of version 1 of the format, and empty; remove it",
        "6: insecur: is not a known key here and ignored; did you mean insecure?",
        "7: mirror_by_digest_only: is not a known key here and ignored; did you mean mirror-by-digest-only?",
        "14: pull_from_mirror: is not a known key here and ignored; did you mean pull-from-mirror?",
        "8: prefix: a.b is at /etc/containers/registries.conf:4 already, which counts; remove one of them",
        "1: unqualified-search-registry: is not a known key here and ignored; did you mean "
        "unqualified-search-registries?"})
    expected.push_back(kFile + ":" + text);
  auto warnings = registries->warnings();
  std::sort(expected.begin(), expected.end());
  std::sort(warnings.begin(), warnings.end());
  EXPECT_EQ(warnings, expected);
  auto aliases =
      parseRegistriesConf("unqualified-search-registries = 1\n[aliases]\nx = 'a.b/x'", kFile, ConfKind::Aliases);
  ASSERT_TRUE(aliases) << aliases.error().text();
  EXPECT_EQ(aliases->warnings.size(), 1U);
  EXPECT_EQ(aliases->aliases.size(), 1U);
}

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = testing::makeTestDirectory();
    places_ = {.home = base_ + "/home",
               .config = base_ + "/home/.config",
               .cache = base_ + "/home/.cache",
               .runtime = base_ + "/run",
               .etc = base_ + "/etc",
               .vendor = base_ + "/usr",
               .dockerConfig = base_ + "/home/.docker"};
  }
  void TearDown() override { EXPECT_TRUE(removeTree(base_)); }
  void write(const std::string& name, const std::string& text) {
    auto path = base_ + "/" + name;
    ASSERT_TRUE(makeDirectories(path.substr(0, path.rfind('/'))));
    ASSERT_TRUE(writeFileAtomic(path, text));
  }
  std::string ask(const std::string& name) {
    auto registries = loadRegistries(places_);
    return registries ? told(**registries, name) : registries.error().text();
  }
  std::string search(const std::string& host) { return "unqualified-search-registries = ['" + host + "']\n"; }

  std::string base_;
  Places places_;
};

TEST_F(Files, TheUsersReplacesTheSystems) {
  EXPECT_EQ(ask("x"), "docker.io/library/x:latest: docker.io/library/x");
  write("usr/registries.conf", search("vendor.io"));
  EXPECT_EQ(ask("x"), "vendor.io/x:latest: vendor.io/x");
  write("etc/containers/registries.conf", "short-name-mode = 'disabled'\n");
  EXPECT_EQ(ask("x"), "docker.io/library/x:latest: docker.io/library/x");
  write("etc/containers/registries.conf", search("etc.io"));
  write("home/.config/containers/registries.conf", search("user.io"));
  EXPECT_EQ(ask("x"), "user.io/x:latest: user.io/x");
}

TEST_F(Files, DropIns) {
  write("etc/containers/registries.conf",
        search("etc.io") + "[aliases]\none = 'a.b/one'\ntwo = 'a.b/two'\n" +
            "[[registry]]\nlocation = 'r.s'\ninsecure = true\n[[registry]]\nlocation = "
            "'t.u'\ninsecure = true\n");
  write("usr/registries.conf.d/90.conf", search("vendor.io"));
  write("etc/containers/registries.conf.d/20.conf", search("twenty.io"));
  write("etc/containers/registries.conf.d/10.conf", search("ten.io") + "short-name-mode = 'enforcing'\n");
  EXPECT_EQ(ask("x"), "twenty.io/x:latest: twenty.io/x");
  write("home/.config/containers/registries.conf.d/00.conf",
        "[aliases]\ntwo = 'c.d/two'\nthree = 'c.d/three'\n[[registry]]\nlocation = 'r.s'\n");
  write("home/.config/containers/registries.conf.d/hidden.txt", "wrong");
  write("home/.config/containers/registries.conf.d/.x.conf", "wrong");
  ASSERT_TRUE(makeDirectories(base_ + "/home/.config/containers/registries.conf.d/dir.conf"));
  EXPECT_EQ(ask("one"), "a.b/one:latest: a.b/one");
  EXPECT_EQ(ask("two"), "c.d/two:latest: c.d/two");
  EXPECT_EQ(ask("three"), "c.d/three:latest: c.d/three");
  EXPECT_EQ(ask("r.s/x"), "r.s/x:latest: r.s/x");
  EXPECT_EQ(ask("t.u/x"), "t.u/x:latest: t.u/x!");
  // The same name in the user's directory masks the system's.
  write("home/.config/containers/registries.conf.d/20.conf", "");
  EXPECT_EQ(ask("x"), "ten.io/x:latest: ten.io/x");
  ASSERT_EQ(::symlink("/dev/null", (base_ + "/home/.config/containers/registries.conf.d/10.conf").c_str()), 0);
  EXPECT_EQ(ask("x"), "vendor.io/x:latest: vendor.io/x");
  // An error names its file.
  write("usr/registries.conf.d/91.conf", "\nblocked");
  EXPECT_EQ(ask("x").find(base_ + "/usr/registries.conf.d/91.conf:2: "), 0U) << ask("x");
}

TEST_F(Files, AliasesOfTheCacheWin) {
  write("etc/containers/registries.conf", "[aliases]\nx = 'a.b/x'\ny = 'a.b/y'\nz = 'a.b/z'\n");
  write("home/.cache/containers/short-name-aliases.conf", "[aliases]\nx = 'c.d/x'\nz = ''\n");
  EXPECT_EQ(ask("x"), "c.d/x:latest: c.d/x");
  EXPECT_EQ(ask("y"), "a.b/y:latest: a.b/y");
  EXPECT_EQ(ask("z"), "docker.io/library/z:latest: docker.io/library/z");
}

TEST_F(Files, OfTheEnvironment) {
  write("etc/containers/registries.conf", search("etc.io") + "short-name-mode = 'enforcing'");
  write("home/.config/containers/registries.conf.d/1.conf", search("drop.io"));
  places_.registriesConf = base_ + "/own.conf";
  EXPECT_EQ(ask("x"), places_.registriesConf + ": cannot be read: No such file or directory");
  write("own.conf", "unqualified-search-registries = ['own.io', 'more.io']");
  EXPECT_EQ(ask("x"), "own.io/x:latest: own.io/x; more.io/x:latest: more.io/x");
  places_.registriesOverride = base_ + "/over.conf";
  EXPECT_EQ(ask("x"), places_.registriesOverride + ": cannot be read: No such file or directory");
  write("over.conf", search("over.io"));
  EXPECT_EQ(ask("x"), "over.io/x:latest: over.io/x");
  places_.registriesConf = "";
  EXPECT_EQ(ask("x"), "over.io/x:latest: over.io/x");
}

TEST_F(Files, NotReadable) {
  auto file = base_ + "/etc/containers/registries.conf";
  ASSERT_TRUE(makeDirectories(file));
  EXPECT_EQ(ask("x"), file + ": is not a regular file");
  ASSERT_EQ(::rmdir(file.c_str()), 0);
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_EQ(ask("x"), file + ": is not a regular file");
  ASSERT_EQ(::unlink(file.c_str()), 0);
  write("etc/containers/registries.conf", std::string((1U << 20) + 1, ' '));
  EXPECT_EQ(ask("x"), file + ": has more than 1 MiB");
  if (::geteuid() == 0) return;
  write("etc/containers/registries.conf", "");
  ASSERT_EQ(::chmod(file.c_str(), 0), 0);
  EXPECT_EQ(ask("x"), file + ": cannot be read: Permission denied");
}

TEST_F(Files, FollowsChangesAndKeepsTheLastGoodOne) {
  auto file = base_ + "/home/.config/containers/registries.conf";
  RegistriesFiles files(places_);
  auto now = [&] {
    auto registries = files.current();
    return registries ? told(**registries, "x") : registries.error().text();
  };
  // It looks four times a second.
  auto comes = [&](const std::string& text) {
    for (int i = 0; i < 1000 && now() != text; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return now();
  };
  auto is = [](const std::string& host) { return host + "/x:latest: " + host + "/x"; };
  write("home/.config/containers/registries.conf", "wrong");
  EXPECT_EQ(now().find(file + ":1: "), 0U) << now();
  write("home/.config/containers/registries.conf", search("one.io"));
  EXPECT_EQ(comes(is("one.io")), is("one.io"));
  write("home/.config/containers/registries.conf.d/1.conf", search("two.io"));
  EXPECT_EQ(comes(is("two.io")), is("two.io"));
  write("home/.config/containers/registries.conf", "wrong");
  write("home/.config/containers/registries.conf.d/1.conf", search("three.io"));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(now(), is("two.io"));
  ASSERT_EQ(::unlink(file.c_str()), 0);
  EXPECT_EQ(comes(is("three.io")), is("three.io"));
  // Of the same size, in the same moment.
  write("home/.config/containers/registries.conf.d/1.conf", search("four4.io"));
  EXPECT_EQ(comes(is("four4.io")), is("four4.io"));
  ASSERT_TRUE(writeFile(base_ + "/home/.config/containers/registries.conf.d/1.conf", search("five5.io")));
  EXPECT_EQ(comes(is("five5.io")), is("five5.io"));
  ASSERT_EQ(::unlink((base_ + "/home/.config/containers/registries.conf.d/1.conf").c_str()), 0);
  EXPECT_EQ(comes("docker.io/library/x:latest: docker.io/library/x"),
            "docker.io/library/x:latest: docker.io/library/x");
}

}  // namespace
}  // namespace userpod::images
