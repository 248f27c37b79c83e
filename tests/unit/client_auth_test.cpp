// How the registry client shows who it is: challenges, tokens and what is never sent.
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "tests/unit/client_bed.hpp"

namespace userpod::images {
namespace {

// A registry that takes bearer tokens of its own token server, as a test wants them given.
class AuthTest : public ClientTest {
 protected:
  AuthTest()
      : server_([this](const FakeRequest& request, FakeConnection& connection) { serve(request, connection); }),
        realm_("http://" + server_.address() + "/token") {}

  void serve(const FakeRequest& request, FakeConnection& connection) {
    if (!request.target.starts_with("/token")) {
      if (request.header("authorization") == accepted_)
        return (void)connection.answer(200, request.target.find("/blobs/") != std::string::npos ? blob_ : kManifest);
      auto challenge = !challenge_.empty() ? challenge_ : fmt::format("Bearer realm=\"{}\",service=\"s&t\"", realm_);
      return (void)connection.answer(401, "", "WWW-Authenticate: " + challenge + "\r\n");
    }
    token_(request, connection);
  }
  void give(FakeConnection& connection, const std::string& more = "") {
    accepted_ = fmt::format("Bearer t{}", ++tokens_);
    connection.answer(200, fmt::format(R"({{"token":"t{}"{}}})", tokens_, more));
  }
  std::ptrdiff_t asked() const { return count(server_.seen(), "GET /token") + count(server_.seen(), "POST /token"); }

  std::string accepted_ = "-";  // the header that lets in
  std::string challenge_;
  std::string blob_ = someBytes(100'000);
  std::atomic<int> tokens_ = 0;
  std::function<void(const FakeRequest&, FakeConnection&)> token_ = [this](const FakeRequest&, FakeConnection& c) {
    give(c);
  };
  FakeServer server_;
  std::string realm_;
};

TEST_F(AuthTest, AnonymousToken) {
  auto registry = this->registry(server_);
  auto answer = registry.manifest("latest");
  ASSERT_TRUE(answer) << textOf(answer);
  EXPECT_TRUE(fetch(registry, descriptorOf(blob_)));
  EXPECT_EQ(server_.seen()[1], "GET /token?scope=repository%3Aa%2Fb%3Apull&service=s%26t");
  EXPECT_EQ(server_.authorizations()[1], "");
  EXPECT_EQ(server_.seen().size(), 4U);
}

TEST_F(AuthTest, PasswordAndScope) {
  realm_ += "?private=yes\",scope=\"repository:a/b:pull,push";
  ASSERT_TRUE(registry(server_, {.username = "us er", .password = "word"}).manifest("latest"));
  EXPECT_EQ(server_.seen()[1],
            "GET /token?private=yes&scope=repository%3Aa%2Fb%3Apull%2Cpush&service=s%26t&account=us%20er");
  EXPECT_EQ(server_.authorizations()[1], "Basic dXMgZXI6d29yZA==");
}

TEST_F(AuthTest, RealmOfAPath) {
  challenge_ = "Bearer realm=\"/token/private\",service=x";
  EXPECT_TRUE(registry(server_).manifest("latest"));
  EXPECT_TRUE(server_.seen()[1].starts_with("GET /token/private?scope="));
}

TEST_F(AuthTest, RenewedBeforeItEnds) {
  token_ = [&](const FakeRequest&, FakeConnection& connection) {
    give(connection, tokens_ == 0 ? ",\"expires_in\":0" : ",\"expires_in\":300");
  };
  auto registry = this->registry(server_);
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_EQ(asked(), 2);
  EXPECT_EQ(server_.seen().size(), 6U);  // one of them refused
}

TEST_F(AuthTest, RenewedOnceWhenRefused) {
  auto registry = this->registry(server_);
  EXPECT_TRUE(registry.manifest("latest"));
  accepted_ = "another";
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_EQ(asked(), 2);
  token_ = [&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, R"({"token":"no use"})"); };
  accepted_ = "another";
  auto unusable = registry.manifest("latest");
  EXPECT_EQ(codeOf(unusable), Code::RegistryDenied);
  token_ = [&](const FakeRequest&, FakeConnection& connection) {
    connection.answer(200, fmt::format(R"({{"token":"useless{}"}})", ++tokens_));
  };
  auto before = asked();
  EXPECT_EQ(codeOf(registry.manifest("latest")), Code::RegistryAuthRequired);
  EXPECT_EQ(asked() - before, 2);
}

TEST_F(AuthTest, TokenEndsWithinABlob) {
  std::string blob = someBytes(300'000);
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.target.starts_with("/token")) return give(connection);
    if (request.header("authorization") != accepted_)
      return (void)connection.answer(401, "", "WWW-Authenticate: Bearer realm=\"/token\"\r\n");
    auto range = request.header("range");
    std::size_t from = range.empty() ? 0 : std::strtoul(range.c_str() + 6, nullptr, 10);
    connection.send(range.empty() ? fmt::format("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", blob.size())
                                  : fmt::format("HTTP/1.1 206 x\r\nContent-Length: {}\r\nContent-Range: bytes "
                                                "{}-{}/*\r\n\r\n",
                                                blob.size() - from, from, blob.size() - 1));
    connection.send(blob.substr(from, 100'000));
    accepted_ = "another";
    connection.close();
  });
  auto registry = this->registry(server);
  auto fetched = fetch(registry, descriptorOf(blob));
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob);
  EXPECT_EQ(tokens_, 3);
}

TEST_F(AuthTest, IdentityToken) {
  std::vector<std::string> forms;
  token_ = [&](const FakeRequest& request, FakeConnection& connection) {
    if (request.method != "POST") return (void)connection.answer(405, "");
    forms.push_back(request.body);
    give(connection, ",\"refresh_token\":\"second&\",\"expires_in\":0");
  };
  auto registry = this->registry(server_, {.identityToken = "first="});
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_TRUE(registry.manifest("latest"));
  std::string start = "client_id=userpod&service=s%26t&scope=repository%3Aa%2Fb%3Apull&grant_type=refresh_token&";
  std::vector<std::string> expected{start + "refresh_token=first%3D", start + "refresh_token=second%26"};
  EXPECT_EQ(forms, expected);
}

TEST_F(AuthTest, IdentityTokenIsNeverRedirected) {
  FakeServer other([&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, R"({"token":"x"})"); });
  token_ = [&](const FakeRequest&, FakeConnection& connection) {
    connection.answer(307, "", fmt::format("Location: http://{}/\r\n", other.address()));
  };
  EXPECT_EQ(codeOf(registry(server_, {.identityToken = "secret"}).manifest("latest")), Code::RegistryUnreachable);
  EXPECT_TRUE(other.seen().empty());
}

TEST_F(AuthTest, PasswordByOAuthWhereGetIsNotKnown) {
  for (int status : {404, 405}) {
    std::string form;
    token_ = [&](const FakeRequest& request, FakeConnection& connection) {
      if (request.method == "GET") return (void)connection.answer(status, "");
      form = request.body;
      give(connection);
    };
    auto answer = registry(server_, {.username = "user", .password = "w&rd"}).manifest("latest");
    EXPECT_TRUE(answer) << textOf(answer);
    EXPECT_TRUE(form.ends_with("&grant_type=password&username=user&password=w%26rd")) << form;
    accepted_ = "-";
  }
}

TEST_F(AuthTest, RegistryTokenAsItIs) {
  accepted_ = "Bearer as-it-is";
  EXPECT_TRUE(registry(server_, {.registryToken = "as-it-is"}).manifest("latest"));
  EXPECT_EQ(server_.seen().size(), 1U);
  auto refused = registry(server_, {.registryToken = "another"}).manifest("latest");
  EXPECT_EQ(codeOf(refused), Code::RegistryDenied);
  EXPECT_EQ(textOf(refused).find("another"), std::string::npos);
  EXPECT_EQ(asked(), 0);
}

TEST_F(AuthTest, Basic) {
  challenge_ = "Basic realm=\"x\"";
  accepted_ = "Basic dXNlcjp3b3Jk";
  auto registry = this->registry(server_, {.username = "user", .password = "word"});
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_EQ(server_.seen().size(), 3U);
  auto wrong = this->registry(server_, {.username = "user", .password = "guess"}).manifest("latest");
  EXPECT_EQ(codeOf(wrong), Code::RegistryDenied);
  EXPECT_EQ(textOf(wrong).find("guess"), std::string::npos);
  EXPECT_EQ(codeOf(this->registry(server_).manifest("latest")), Code::RegistryAuthRequired);
  EXPECT_EQ(codeOf(this->registry(server_, {.identityToken = "x"}).manifest("latest")), Code::RegistryDenied);
}

TEST_F(AuthTest, SeveralChallenges) {
  challenge_ = "Negotiate, Basic realm=\"x\"\r\nWWW-Authenticate: Digest nonce=\"a,b\", Bearer realm=\"/token\"";
  EXPECT_TRUE(registry(server_, {.username = "user", .password = "word"}).manifest("latest"));
  EXPECT_EQ(asked(), 1);
  // Where the token server refuses, the registry itself may still take the password.
  token_ = [&](const FakeRequest&, FakeConnection& connection) { connection.answer(403, ""); };
  accepted_ = "Basic dXNlcjp3b3Jk";
  EXPECT_TRUE(registry(server_, {.username = "user", .password = "word"}).manifest("latest"));
  challenge_ = "Negotiate";
  EXPECT_EQ(codeOf(registry(server_, {.username = "user", .password = "word"}).manifest("latest")),
            Code::RegistryDenied);
}

TEST_F(AuthTest, TokenServersThatRefuse) {
  int status = 0;
  std::string body = R"({"details":"its own words"})";
  token_ = [&](const FakeRequest&, FakeConnection& connection) { connection.answer(status, body); };
  const std::pair<int, Code> cases[] = {{400, Code::RegistryDenied},
                                        {401, Code::RegistryDenied},
                                        {403, Code::RegistryDenied},
                                        {501, Code::RegistryUnreachable}};
  for (const auto& [number, code] : cases) {
    status = number;
    auto answer = registry(server_, {.username = "user", .password = "guess"}).manifest("latest");
    EXPECT_EQ(codeOf(answer), code) << number;
    EXPECT_NE(textOf(answer).find("its own words"), std::string::npos) << textOf(answer);
    EXPECT_EQ(textOf(answer).find("guess"), std::string::npos) << textOf(answer);
  }
  status = 401;
  EXPECT_EQ(codeOf(registry(server_).manifest("latest")), Code::RegistryAuthRequired);
  status = 200;
  for (const char* document : {"", "{}", R"({"token":"a\nb"})"}) {
    body = document;
    EXPECT_EQ(codeOf(registry(server_).manifest("latest")), Code::RegistryDenied);
  }
}

TEST_F(AuthTest, RealmsThatAreNotAsked) {
  for (const char* realm : {"ftp://127.0.0.1/", "", "token", "http://token.example/"}) {
    challenge_ = fmt::format("Bearer realm=\"{}\"", realm);
    auto answer = registry(server_, {.username = "user", .password = "word"}).manifest("latest");
    EXPECT_EQ(codeOf(answer), Code::RegistryDenied) << realm;
  }
  EXPECT_EQ(asked(), 0);
}

TEST_F(AuthTest, OneTokenForManyThreads) {
  token_ = [&](const FakeRequest&, FakeConnection& connection) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    give(connection);
  };
  auto registry = this->registry(server_);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&] {
      auto fetched = fetch(registry, descriptorOf(blob_));
      EXPECT_TRUE(fetched) << textOf(fetched);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(asked(), 1);
}

}  // namespace
}  // namespace userpod::images
