// auth.json and its kin, credential helpers, certs.d.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/auth_files.hpp"
#include "daemon/images/registries/credential_helper.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = testing::makeTestDirectory();
    places_ = {.home = base_ + "/home",
               .config = base_ + "/home/.config",
               .cache = base_ + "/home/.cache",
               .runtime = base_ + "/run",
               .etc = base_ + "/etc",
               .vendor = base_ + "/usr",
               .dockerConfig = base_ + "/home/.docker",
               .path = {base_ + "/nothing", base_ + "/bin", "/usr/bin", "/bin"}};
  }
  void TearDown() override { EXPECT_TRUE(removeTree(base_)); }

  std::string write(const std::string& name, const std::string& text, mode_t mode = 0600) {
    auto path = base_ + "/" + name;
    EXPECT_TRUE(makeDirectories(path.substr(0, path.rfind('/'))));
    EXPECT_TRUE(writeFile(path, text, mode));
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return path;
  }
  // Writes what it was asked into asked/NAME, each time.
  void helper(const std::string& name, const std::string& body) {
    EXPECT_TRUE(makeDirectories(base_ + "/asked"));
    write("bin/docker-credential-" + name,
          "#!/bin/sh\nread -r server\necho \"$1 $server\" >> " + base_ + "/asked/" + name + "\n" + body, 0755);
  }
  std::string asked(const std::string& name) {
    auto text = readFile(base_ + "/asked/" + name);
    return text ? *text : "";
  }

  // "user:password", "token", "registry token", "none" or the error.
  std::string find(const std::string& host, const std::string& path = "x") {
    auto found = findCredentials(places_, host, path);
    if (!found) return std::string(codeName(found.error().code())) + ": " + found.error().text();
    EXPECT_TRUE(found->serverAddress.empty());
    if (!found->identityToken.empty()) return "token " + found->identityToken;
    if (!found->registryToken.empty()) return "registry token " + found->registryToken;
    return found->empty() ? "none" : found->username + ":" + found->password;
  }
  std::string base_;
  Places places_;
};

// Base64 of u:p, u2:p2, u3:p3, u:a:b:c.
const char* const kFirst = "dTpw";
const char* const kSecond = "dTI6cDI=";
const char* const kThird = "dTM6cDM=";
const char* const kColons = "dTphOmI6Yw==";

std::string entry(const std::string& key, const std::string& auth) {
  return "\"" + key + R"(":{"auth":")" + auth + "\"}";
}
std::string auths(const std::string& entries) {
  return R"({"auths":{)" + entries + "}}";
}

TEST_F(AccessTest, NobodyHasAny) {
  EXPECT_EQ(find("a.b"), "none");
  write("home/.docker/config.json", "");
  write("home/.config/containers/auth.json", "{}");
  write("run/containers/auth.json", R"({"auths":null,"credHelpers":null,"credsStore":null,"HttpHeaders":{}})");
  EXPECT_EQ(find("a.b"), "none");
}

TEST_F(AccessTest, FilesInTheirOrder) {
  write("home/.dockercfg", "{" + entry("https://a.b/v1/", kFirst) + "}");
  EXPECT_EQ(find("a.b"), "u:p");
  write("home/.docker/config.json", auths(entry("a.b", kSecond)));
  EXPECT_EQ(find("a.b"), "u2:p2");
  write("home/.config/containers/auth.json", auths(entry("a.b", kThird)));
  EXPECT_EQ(find("a.b"), "u3:p3");
  write("run/containers/auth.json", auths(entry("a.b", kColons) + ",\"c.d\":{}"));
  EXPECT_EQ(find("a.b"), "u:a:b:c");
  EXPECT_EQ(find("c.d"), "none");
  places_.authFile = write("own.json", auths(entry("c.d", kFirst)));
  EXPECT_EQ(find("a.b"), "none");
  EXPECT_EQ(find("c.d"), "u:p");
  places_.authFile = base_ + "/missing.json";
  EXPECT_EQ(find("a.b"), "none");
}

TEST_F(AccessTest, TheLongestNamespaceOfTheFirstFileThatHasOne) {
  write("home/.config/containers/auth.json", auths(entry("a.b/n/x", kFirst)));
  write("run/containers/auth.json",
        auths(entry("a.b", kFirst) + "," + entry("a.b/n", kSecond) + "," + entry("a.b/n/x/y", kThird) + "," +
              entry("c.d:5000/n", kThird) + ",\"a.b/n/empty\":{}"));
  EXPECT_EQ(find("a.b", "x"), "u:p");
  EXPECT_EQ(find("a.b", "n"), "u2:p2");
  EXPECT_EQ(find("a.b", "n/x"), "u2:p2");
  EXPECT_EQ(find("a.b", "n/x/y"), "u3:p3");
  EXPECT_EQ(find("a.b", "n/x/y/z"), "u3:p3");
  EXPECT_EQ(find("a.b", "n/empty"), "u2:p2");
  EXPECT_EQ(find("a.b", "nn/x"), "u:p");
  EXPECT_EQ(find("A.B", "n"), "u2:p2");
  EXPECT_EQ(find("c.d:5000", "n/x"), "u3:p3");
  EXPECT_EQ(find("c.d:5000", "x"), "none");
  EXPECT_EQ(find("c.d", "n"), "none");
  EXPECT_EQ(find("x.a.b", "n"), "none");
}

TEST_F(AccessTest, OldKeysAndDockerHub) {
  for (const auto* key : {"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io",
                          "https://registry-1.docker.io/v2/", "index.docker.io/v1/", "https://docker.io"}) {
    write("home/.docker/config.json", auths(entry(key, kFirst)));
    EXPECT_EQ(find("docker.io", "library/x"), "u:p") << key;
    EXPECT_EQ(find("a.b"), "none") << key;
  }
  for (const auto* key : {"https://a.b/v1/", "http://a.b", "https://a.b/some/path", "a.b/"}) {
    write("home/.docker/config.json", auths(entry(key, kFirst)));
    EXPECT_EQ(find("a.b"), "u:p") << key;
  }
  // What is spelled as it should be counts before an address, wherever it stands.
  write("home/.docker/config.json",
        auths(entry("https://a.b/v1/", kFirst) + "," + entry("a.b", kSecond) + "," + entry("http://a.b/v2/", kThird)));
  EXPECT_EQ(find("a.b"), "u2:p2");
}

TEST_F(AccessTest, FieldsOfAnEntry) {
  auto with = [&](const std::string& fields) {
    write("run/containers/auth.json", R"({"auths":{"a.b":{)" + fields + "}}}");
    return find("a.b");
  };
  EXPECT_EQ(with(R"("username":"me","password":"se:cret")"), "me:se:cret");
  EXPECT_EQ(with(R"("username":"me","password":"x","auth":"dTpw")"), "u:p");
  EXPECT_EQ(with(R"("identitytoken":"abc")"), "token abc");
  EXPECT_EQ(with(R"("identitytoken":"abc","auth":"AAA")"), "token abc");
  EXPECT_EQ(with(R"("registrytoken":"abc")"), "registry token abc");
  EXPECT_EQ(with(R"("auth":"","email":"a@b")"), "none");
  EXPECT_EQ(with(R"("auth":"dTpwAAA=")"), "u:p");        // padded by zero bytes
  EXPECT_EQ(with("\"auth\":\"dT\\r\\npw\\n\""), "u:p");  // lines
  EXPECT_EQ(with(R"("auth":"dTo=")"), "u:");
}

TEST_F(AccessTest, WrongFilesAreNamedButNotQuoted) {
  auto file = base_ + "/run/containers/auth.json";
  auto with = [&](const std::string& text) {
    write("run/containers/auth.json", text);
    auto told = find("a.b");
    EXPECT_EQ(told.find("secret"), std::string::npos) << told;
    return told;
  };
  const std::string invalid = "ConfigInvalid: " + file;
  EXPECT_EQ(with("{\n\"secret"), invalid + ":2: is not JSON");
  EXPECT_EQ(with("secret"), invalid + ":1: is not JSON");
  EXPECT_EQ(with("\"secret\xff\""), invalid + ":1: is not JSON");
  EXPECT_EQ(with("{\"auths\":1e999}"), invalid + ": holds a number that is none");
  EXPECT_EQ(with("[\"secret\"]"), invalid + ": must be a JSON object");
  EXPECT_EQ(with(R"({"auths":["secret"]})"), invalid + ": auths must be an object");
  EXPECT_EQ(with(R"({"auths":{"a.b":"secret"}})"), invalid + ": auths: a.b must be an object");
  EXPECT_EQ(with(R"({"credHelpers":"secret"})"), invalid + ": credHelpers must be an object");
  EXPECT_EQ(with(R"({"credHelpers":{"a.b":1}})"), invalid + ": credHelpers: a.b must be the name of a helper");
  EXPECT_EQ(with(R"({"credsStore":{}})"), invalid + ": credsStore must be the name of a helper");
  EXPECT_EQ(with(auths(entry("a.b", "secret!!"))), invalid + ": auths: a.b: auth is not base64; log in again");
  EXPECT_EQ(with(auths(entry("a.b", "secre"))), invalid + ": auths: a.b: auth is not base64; log in again");
  EXPECT_EQ(with(auths(entry("a.b", "c2VjcmV0"))),
            invalid + ": auths: a.b: auth holds no user and password with a colon between; log in again");
  EXPECT_EQ(with(auths(entry("c.d", "secret!!") + "," + entry("a.b", kFirst))), "u:p");
  EXPECT_EQ(with(std::string((1U << 20) + 1, ' ')), invalid + ": has more than 1 MiB");
}

TEST_F(AccessTest, FilesOfOthers) {
  auto file = write("run/containers/auth.json", auths(entry("a.b", kFirst)), 0602);
  EXPECT_EQ(find("a.b"), "ConfigInvalid: " + file + ": everybody may write it; mend: chmod 600 " + file);
  ASSERT_EQ(::chmod(file.c_str(), 0644), 0);
  EXPECT_EQ(find("a.b"), "u:p");
  ASSERT_EQ(::unlink(file.c_str()), 0);
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_EQ(find("a.b"), "ConfigInvalid: " + file + ": is not a regular file");
  ASSERT_EQ(::unlink(file.c_str()), 0);
  write("run/containers/auth.json", auths(entry("a.b", kFirst)));
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(file.c_str(), 12345, 0), 0);
    EXPECT_EQ(find("a.b"), "ConfigInvalid: " + file + ": belongs to uid 12345, not to you or root; mend: chown it");
  } else {
    ASSERT_EQ(::chmod(file.c_str(), 0), 0);
    EXPECT_EQ(find("a.b"), "ConfigInvalid: " + file + ": cannot be read: Permission denied");
  }
}

TEST_F(AccessTest, HelpersOfAnAuthFile) {
  helper("one", R"(echo '{"ServerURL":"x","Username":"h1","Secret":"s:1"}')");
  helper("two", R"(echo '{"Username":"<token>","Secret":"t2"}')");
  helper("none", "echo 'credentials not found in native keychain'; exit 1");
  write(
      "run/containers/auth.json",
      R"({"credHelpers":{"a.b":"one","a.b/n":"two","e.f":"none","https://g.h/v1/":"one"},"credsStore":"two","auths":{)" +
          entry("a.b", kFirst) + "," + entry("c.d", kSecond) + "," + entry("e.f", kThird) + "}}");
  EXPECT_EQ(find("a.b"), "h1:s:1");
  EXPECT_EQ(find("a.b", "n/x"), "token t2");
  EXPECT_EQ(find("c.d"), "u2:p2");  // before credsStore
  EXPECT_EQ(find("e.f"), "none");   // it has a helper: what else the file says is not for it
  EXPECT_EQ(find("g.h"), "h1:s:1");
  EXPECT_EQ(find("i.j:5", "n"), "token t2");  // credsStore
  EXPECT_EQ(asked("one"), "get a.b\nget g.h\n");
  EXPECT_EQ(asked("two"), "get a.b\nget i.j:5\n");
  EXPECT_EQ(asked("none"), "get e.f\n");
}

TEST_F(AccessTest, HelpersKeepDockerHubUnderItsFirstAddress) {
  helper("store", R"([ "$server" = https://index.docker.io/v1/ ] && echo '{"Username":"h","Secret":"s"}' && exit
echo 'credentials not found in native keychain'; exit 1)");
  write("home/.docker/config.json", R"({"auths":{"https://index.docker.io/v1/":{}},"credsStore":"store"})");
  EXPECT_EQ(find("docker.io", "library/x"), "h:s");
  EXPECT_EQ(find("a.b"), "none");
  EXPECT_EQ(asked("store"), "get docker.io\nget https://index.docker.io/v1/\nget a.b\n");
}

TEST_F(AccessTest, HelpersOfRegistriesConf) {
  helper("first", "echo 'credentials not found in native keychain'; exit 1");
  helper("last", R"(echo '{"Username":"h","Secret":"s"}')");
  write("etc/containers/registries.conf", "credential-helpers = ['first', 'containers-auth.json', 'last']");
  write("run/containers/auth.json", auths(entry("a.b", kFirst)));
  EXPECT_EQ(find("a.b"), "u:p");
  EXPECT_EQ(asked("last"), "");
  EXPECT_EQ(find("c.d"), "h:s");
  EXPECT_EQ(asked("first"), "get a.b\nget c.d\n");
  // A fault is told when nobody else has any.
  write("run/containers/auth.json", "wrong");
  EXPECT_EQ(find("c.d"), "h:s");
  helper("last", "exit 1");
  EXPECT_EQ(find("c.d"), "ConfigInvalid: " + base_ + "/run/containers/auth.json:1: is not JSON");
  write("etc/containers/registries.conf", "credential-helpers = ['last']");
  EXPECT_EQ(find("c.d"), "RegistryDenied: docker-credential-last for c.d: exit status 1: it said nothing");
  write("etc/containers/registries.conf", "credential-helpers = []");
  write("run/containers/auth.json", auths(entry("a.b", kFirst)));
  EXPECT_EQ(find("a.b"), "u:p");
  // A registries.conf that cannot be read is told elsewhere.
  write("etc/containers/registries.conf", "wrong");
  EXPECT_EQ(find("a.b"), "u:p");
}

TEST_F(AccessTest, WrongHelpers) {
  auto file = base_ + "/run/containers/auth.json";
  auto with = [&](const std::string& body) {
    helper("bad", body);
    write("run/containers/auth.json", R"({"credsStore":"bad"})");
    auto told = find("a.b");
    EXPECT_EQ(told.find("secret"), std::string::npos) << told;
    return told;
  };
  const std::string who = "RegistryDenied: docker-credential-bad for a.b: ";
  EXPECT_EQ(with("echo the keyring is locked; exit 3"), who + "exit status 3: the keyring is locked");
  EXPECT_EQ(with("echo no display >&2; exit 3"), who + "exit status 3: no display");
  EXPECT_EQ(with(R"(echo '{"Secret":"secret"}'; exit 1)"), who + "exit status 1: its answer is not quoted");
  EXPECT_EQ(with("echo secret"), who + "its answer is not a JSON object with Username and Secret");
  EXPECT_EQ(with("echo '[]'"), who + "its answer is not a JSON object with Username and Secret");
  EXPECT_EQ(with("kill -9 $$"), who + "exit status 137: it said nothing");
  EXPECT_EQ(with("echo '{}'"), "none");
  EXPECT_EQ(with(R"(echo '{"Username":5,"Secret":["secret"]}')"), "none");
  EXPECT_EQ(with("head -c 70000 /dev/zero"), who + "its answer has more than 64 KiB");
  write("run/containers/auth.json", R"({"credsStore":"missing"})");
  EXPECT_EQ(find("a.b"), "HelperMissing: " + file +
                             ": docker-credential-missing is not in the daemon's PATH; install it, or remove it there");
  for (const std::string name : {"../bin/x", "", "a b", "-x", ".x", "x;y"}) {
    write("run/containers/auth.json", R"({"credHelpers":{"a.b":")" + name + "\"}}");
    EXPECT_EQ(find("a.b"), "ConfigInvalid: " + file + ": \"" + name +
                               "\" is not the name of a credential helper: what follows docker-credential- in its "
                               "program's name");
  }
}

TEST_F(AccessTest, EnvironmentOfHelpers) {
  ::setenv("NOTIFY_SOCKET", "/run/x", 1);
  ::setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/bus", 1);
  ::setenv("AWS_PROFILE", "mine", 1);
  helper("env", "env > " + base_ + "/asked/environment; echo '{}'");
  write("run/containers/auth.json", R"({"credsStore":"env"})");
  EXPECT_EQ(find("a.b"), "none");
  ::unsetenv("NOTIFY_SOCKET");
  ::unsetenv("AWS_PROFILE");
  auto environment = asked("environment");
  EXPECT_NE(environment.find("HOME=" + places_.home + "\n"), std::string::npos);
  EXPECT_NE(environment.find("PATH=" + base_ + "/nothing:" + base_ + "/bin:/usr/bin:/bin\n"), std::string::npos);
  EXPECT_NE(environment.find("DBUS_SESSION_BUS_ADDRESS=unix:path=/bus\n"), std::string::npos);
  EXPECT_NE(environment.find("AWS_PROFILE=mine\n"), std::string::npos);
  EXPECT_EQ(environment.find("NOTIFY_SOCKET"), std::string::npos);
}

const char* const kPem = "-----BEGIN CERTIFICATE-----\n";

TEST_F(AccessTest, Certificates) {
  auto found = hostCertificates(places_, "a.b:5000");
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->authorities.empty() && found->clients.empty());
  auto docker = write("etc/docker/certs.d/a.b:5000/ca.crt", kPem);
  EXPECT_EQ(hostCertificates(places_, "a.b:5000")->authorities, std::vector<std::string>{docker});
  auto etc = write("etc/containers/certs.d/a.b:5000/one.crt", kPem);
  auto other = write("etc/containers/certs.d/a.b:5000/a.crt", kPem);
  EXPECT_EQ(hostCertificates(places_, "a.b:5000")->authorities, (std::vector<std::string>{other, etc}));
  auto user = base_ + "/home/.config/containers/certs.d/a.b:5000";
  ASSERT_TRUE(makeDirectories(user));
  EXPECT_TRUE(hostCertificates(places_, "a.b:5000")->authorities.empty());  // the first directory that is there
  auto certificate = write("home/.config/containers/certs.d/a.b:5000/me.cert", kPem);
  auto key = write("home/.config/containers/certs.d/a.b:5000/me.key", "-----BEGIN PRIVATE KEY-----\n");
  write("home/.config/containers/certs.d/a.b:5000/README", "");
  found = hostCertificates(places_, "a.b:5000");
  ASSERT_TRUE(found) << found.error().text();
  ASSERT_EQ(found->clients.size(), 1U);
  EXPECT_EQ(found->clients[0].certificate, certificate);
  EXPECT_EQ(found->clients[0].key, key);
  EXPECT_TRUE(hostCertificates(places_, "a.b")->authorities.empty());
  auto six = write("etc/containers/certs.d/[::1]:5000/ca.crt", kPem);
  EXPECT_EQ(hostCertificates(places_, "[::1]:5000")->authorities, std::vector<std::string>{six});
  for (const auto* host : {"", ".", "..", "../a", "a/b"})
    EXPECT_EQ(hostCertificates(places_, host).error().code(), Code::InvalidArgument) << host;
}

TEST_F(AccessTest, WrongCertificates) {
  auto directory = "etc/containers/certs.d/a.b/";
  auto with = [&](const std::string& name, const std::string& text) {
    EXPECT_TRUE(removeTree(base_ + "/etc"));
    auto path = write(directory + name, text);
    auto found = hostCertificates(places_, "a.b");
    if (found) return std::string("good");
    EXPECT_EQ(found.error().code(), Code::ConfigInvalid);
    EXPECT_EQ(found.error().text().find(path + ": "), 0U) << found.error().text();
    return found.error().text().substr(path.size() + 2);
  };
  EXPECT_EQ(with("x.crt", ""), "is empty; remove it, or put the PEM text into it");
  EXPECT_EQ(with("x.crt", "\x30\x82"), "is not a PEM file");
  EXPECT_EQ(with("x.cert", kPem), "there is no x.key for this client certificate; authorities end in .crt");
  EXPECT_EQ(with("x.key", kPem), "there is no x.cert for this key");
  EXPECT_EQ(with("x.pem", kPem), "good");
  EXPECT_EQ(with("x.crt", kPem), "good");
  ASSERT_EQ(::unlink((base_ + "/" + directory + "x.crt").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (base_ + "/" + directory + "x.crt").c_str()), 0);
  EXPECT_EQ(hostCertificates(places_, "a.b").error().text(),
            base_ + "/" + directory + "x.crt: cannot be read: No such file or directory");
}

TEST(Places, FromTheEnvironment) {
  auto before = userPlaces();
  ::setenv("XDG_CONFIG_HOME", "relative", 1);
  ::setenv("DOCKER_CONFIG", "/docker", 1);
  ::setenv("REGISTRY_AUTH_FILE", "/auth.json", 1);
  auto places = userPlaces();
  EXPECT_EQ(places.config, places.home.empty() ? "" : places.home + "/.config");
  EXPECT_EQ(places.dockerConfig, "/docker");
  EXPECT_EQ(places.authFile, "/auth.json");
  for (const auto* name : {"XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"}) ::unsetenv(name);
  EXPECT_EQ(userPlaces().authFile, "");
  EXPECT_EQ(before.etc, "/etc");
}

}  // namespace
}  // namespace userpod::images
