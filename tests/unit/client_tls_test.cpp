// Whom the registry client trusts: certs.d, certificates that are wrong, client certificates, and what it never falls
// back to. And the proxies between.
#include <fmt/core.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/unit/client_bed.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::images {
namespace {

namespace fs = std::filesystem;
using testing::FakeAuthority;

class TlsTest : public ClientTest {
 protected:
  TlsTest() : base_(testing::makeTestDirectory()), authority_(base_) {
    places_.config = base_ + "/config";
    places_.etc = base_ + "/etc";
    authority_.issue("server", "IP:127.0.0.1");
    authority_.issue("client", "");
  }
  ~TlsTest() override { fs::remove_all(base_); }

  FakeServer::Tls tls(const std::string& name = "server") const {
    return {base_ + "/" + name + ".crt", base_ + "/" + name + ".key", {}};
  }
  static void serve(const FakeRequest&, FakeConnection& connection) { connection.answer(200, kManifest); }
  std::string certificatesOf(const FakeServer& server) {
    auto directory = places_.config + "/containers/certs.d/" + server.address();
    fs::create_directories(directory);
    return directory;
  }
  void trust(const FakeServer& server, const std::string& file = "ca.crt") {
    fs::copy_file(base_ + "/" + file, certificatesOf(server) + "/ca.crt");
  }
  // Both as an address of this machine and as any host: neither may do more than it says.
  void expectRefused(const FakeServer& server, std::string_view word, Code code = Code::RegistryUnreachable) {
    for (bool loopback : {true, false}) {
      auto answer =
          registryAt(server.address(), {.username = "user", .password = "word"}, false, loopback).manifest("latest");
      EXPECT_EQ(codeOf(answer), code);
      EXPECT_NE(textOf(answer).find(word), std::string::npos) << textOf(answer);
    }
    EXPECT_TRUE(server.seen().empty());
  }

  std::string base_;
  FakeAuthority authority_;
};

TEST_F(TlsTest, AuthorityOfCertsD) {
  FakeServer server(serve, tls());
  expectRefused(server, "unknown authority; put the authority's certificate, in PEM, into " + certificatesOf(server));
  trust(server);
  auto answer = registry(server).manifest("latest");
  ASSERT_TRUE(answer) << textOf(answer);
  EXPECT_TRUE(registryAt(server.address(), {}, false, false).manifest("latest"));
  EXPECT_EQ(count(server.seen(), "GET /v2/ "), 0);
}

TEST_F(TlsTest, TheServersOwnCertificateIsEnough) {
  FakeServer server(serve, tls());
  trust(server, "server.crt");
  auto answer = registry(server).manifest("latest");
  EXPECT_TRUE(answer) << textOf(answer);
}

TEST_F(TlsTest, CertificatesThatAreWrong) {
  authority_.issue("old", "IP:127.0.0.1", -7200, -3600);
  authority_.issue("early", "IP:127.0.0.1", 3600, 7200);
  authority_.issue("other", "DNS:other.example,IP:127.0.0.2");
  FakeAuthority stranger(base_, "stranger");
  const std::pair<const char*, const char*> cases[] = {
      {"old", "has expired"}, {"early", "not valid yet"}, {"other", "another host name"}};
  for (const auto& [name, word] : cases) {
    FakeServer server(serve, tls(name));
    trust(server);
    expectRefused(server, word);
  }
  FakeServer server(serve, tls());
  trust(server, "stranger.crt");
  expectRefused(server, "unknown authority");
}

TEST_F(TlsTest, InsecureIsNotVerifiedButStillTls) {
  authority_.issue("other", "DNS:other.example", -7200, -3600);
  FakeServer server(serve, tls("other"));
  auto answer = registry(server, {}, true).manifest("latest");
  EXPECT_TRUE(answer) << textOf(answer);
  FakeServer plain(serve);
  EXPECT_TRUE(registry(plain, {}, true).manifest("latest"));
  EXPECT_TRUE(registryAt(plain.address(), {}, true, false).manifest("latest"));
}

TEST_F(TlsTest, SecureIsNeverAskedInClear) {
  FakeServer plain(serve);
  auto answer = registryAt(plain.address(), {}, false, false).manifest("latest");
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find("does not speak TLS"), std::string::npos) << textOf(answer);
  EXPECT_TRUE(plain.seen().empty());
}

TEST_F(TlsTest, ClientCertificates) {
  auto demanding = tls();
  demanding.clientAuthority = authority_.file();
  FakeServer server(serve, demanding);
  trust(server);
  expectRefused(server, "demands a client certificate; put it into " + certificatesOf(server),
                Code::RegistryAuthRequired);
  // Of two, the one whose issuer the server names.
  FakeAuthority stranger(base_, "stranger");
  stranger.issue("a", "");
  auto directory = certificatesOf(server);
  for (const char* name : {"a", "client"}) {
    fs::copy_file(fmt::format("{}/{}.crt", base_, name), fmt::format("{}/{}.cert", directory, name));
    fs::copy_file(fmt::format("{}/{}.key", base_, name), fmt::format("{}/{}.key", directory, name));
  }
  auto answer = registry(server).manifest("latest");
  EXPECT_TRUE(answer) << textOf(answer);
  fs::remove(directory + "/client.cert");
  fs::remove(directory + "/client.key");
  FakeServer again(serve, demanding);
  fs::rename(directory, certificatesOf(again) + "/x");
  fs::remove_all(directory);
  fs::rename(certificatesOf(again) + "/x", base_ + "/x");
  fs::remove(certificatesOf(again));
  fs::rename(base_ + "/x", directory = places_.config + "/containers/certs.d/" + again.address());
  expectRefused(again, "refuses the client certificate of " + directory, Code::RegistryDenied);
}

TEST_F(TlsTest, FilesThatAreNoUse) {
  FakeServer server(serve, tls());
  auto directory = certificatesOf(server);
  std::ofstream(directory + "/ca.crt") << "no certificate\n";
  expectRefused(server, directory + "/ca.crt", Code::ConfigInvalid);
  fs::remove(directory + "/ca.crt");
  trust(server);
  fs::copy_file(base_ + "/client.crt", directory + "/client.cert");
  fs::copy_file(base_ + "/server.key", directory + "/client.key");
  expectRefused(server, directory + "/client.key: this key does not belong to", Code::ConfigInvalid);
}

TEST_F(TlsTest, RedirectsFromTlsStayInTls) {
  FakeServer plain(serve);
  FakeServer server(
      [&](const FakeRequest&, FakeConnection& connection) {
        connection.answer(307, "", fmt::format("Location: http://{}/?sig=abc\r\n", plain.address()));
      },
      tls());
  trust(server);
  auto answer = registry(server).manifest("latest");
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find("from https to http"), std::string::npos) << textOf(answer);
  EXPECT_EQ(textOf(answer).find("sig="), std::string::npos) << textOf(answer);
  EXPECT_TRUE(plain.seen().empty());
}

TEST_F(TlsTest, EachHostHasItsOwnCertificates) {
  FakeServer store(serve, tls());
  FakeServer server(
      [&](const FakeRequest&, FakeConnection& connection) {
        connection.answer(307, "", fmt::format("Location: https://{}/\r\n", store.address()));
      },
      tls());
  trust(server);
  auto answer = registry(server).manifest("latest");
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find(certificatesOf(store)), std::string::npos) << textOf(answer);
  trust(store);
  EXPECT_TRUE(registry(server).manifest("latest"));
}

TEST_F(TlsTest, RealmInClearIsNotAskedFromTls) {
  FakeServer plain(serve);
  FakeServer server(
      [&](const FakeRequest&, FakeConnection& connection) {
        connection.answer(401, "", fmt::format("WWW-Authenticate: Bearer realm=\"http://{}/\"\r\n", plain.address()));
      },
      tls());
  trust(server);
  for (bool insecure : {false, true})
    EXPECT_EQ(codeOf(registry(server, {.username = "user", .password = "word"}, insecure).manifest("latest")),
              Code::RegistryDenied);
  EXPECT_TRUE(plain.seen().empty());
}

TEST_F(TlsTest, Proxies) {
  authority_.issue("named", "DNS:registry.test");
  FakeServer server(serve, tls("named"));
  FakeServer plain(serve);
  bool forbids = false;
  FakeServer proxy([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.header("proxy-authorization") != "Basic dXNlcjp3QHJk" || forbids)
      return (void)connection.answer(forbids ? 403 : 407, "", "Proxy-Authenticate: Basic\r\n");
    if (request.method != "CONNECT") return (void)connection.answer(200, kManifest);
    connection.send("HTTP/1.1 200 x\r\n\r\n");
    connection.relay(request.target.starts_with("registry.test") ? server.port() : plain.port());
  });
  auto directory = places_.config + "/containers/certs.d/registry.test:5000";
  fs::create_directories(directory);
  fs::copy_file(authority_.file(), directory + "/ca.crt");
  options_.proxies.https = options_.proxies.http = "http://user:w%40rd@" + proxy.address();
  auto secure = [&] { return registryAt("registry.test:5000", {}, false, false).manifest("latest"); };
  auto answer = secure();
  EXPECT_TRUE(answer) << textOf(answer);
  EXPECT_EQ(proxy.seen().back(), "CONNECT registry.test:5000");
  EXPECT_EQ(server.seen().size(), 1U);
  // In clear where what is behind it is no TLS.
  answer = registryAt("plain.test:5000", {}, true, false).manifest("latest");
  EXPECT_TRUE(answer) << textOf(answer);
  EXPECT_EQ(proxy.seen().back(), "GET http://plain.test:5000" + kManifests);
  // Loopback is never asked by it.
  auto asked = proxy.seen().size();
  EXPECT_TRUE(registry(plain).manifest("latest"));
  EXPECT_EQ(proxy.seen().size(), asked);
  forbids = true;
  answer = secure();
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find("the proxy " + proxy.address() + " answers status 403"), std::string::npos)
      << textOf(answer);
  forbids = false;
  options_.proxies.https = "http://user:guess@" + proxy.address();
  answer = secure();
  EXPECT_NE(textOf(answer).find("demands other credentials"), std::string::npos) << textOf(answer);
  EXPECT_EQ(textOf(answer).find("guess"), std::string::npos) << textOf(answer);
  options_.proxies.https = "http://user:guess@127.0.0.1:1";
  answer = secure();
  EXPECT_NE(textOf(answer).find("127.0.0.1:1"), std::string::npos) << textOf(answer);
  EXPECT_EQ(textOf(answer).find("guess"), std::string::npos) << textOf(answer);
}

}  // namespace
}  // namespace userpod::images
