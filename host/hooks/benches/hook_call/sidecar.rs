//! The alternative without WebAssembly: the hook is a service of its own, asked
//! over HTTP/1.1 on loopback, with JSON in and out.
//!
//! The service is this same program, started once more. It has everything in its
//! favour: one connection that stays open, no Nagle delay, one thread that does
//! nothing else and need not wait for another.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::{env, io, process, thread};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use llamero_hooks::{Content, JobContext, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

#[derive(Serialize, Deserialize)]
struct Question<'a> {
    model: Cow<'a, str>,
    system: Cow<'a, str>,
    input: Cow<'a, [String]>,
    options: Cow<'a, [(String, Value)]>,
    wants_stream: bool,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    verdict: String,
}

/// Tells the program that it is the service.
const SERVICE: &str = "LLAMERO_BENCH_SIDECAR";

/// A service that runs, and the connection to it.
pub struct Sidecar {
    service: Child,
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.service.kill().unwrap();
        self.service.wait().unwrap();
    }
}

impl Sidecar {
    /// Starts the service and connects to it. The connection runs on the runtime
    /// that this is called on.
    pub async fn start() -> Self {
        let mut service = Command::new(env::current_exe().unwrap())
            .env(SERVICE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut host).unwrap();
        let host = host.trim().to_owned();
        let stream = TcpStream::connect(&host).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { service, sender, host }
    }

    pub async fn on_request(&mut self, request: &Request) -> String {
        let Content::Completion { system, input } = &request.content else {
            panic!("the request of this benchmark is a completion");
        };
        let question = Question {
            model: Cow::Borrowed(&request.model),
            system: Cow::Borrowed(system),
            input: Cow::Borrowed(input),
            options: Cow::Borrowed(&request.options),
            wants_stream: request.wants_stream,
        };
        let body = serde_json::to_vec(&question).unwrap();
        let request = hyper::Request::post("/on-request")
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Answer>(&body).unwrap().verdict
    }
}

/// Whether this process was started as the service.
pub fn is_service() -> bool {
    env::var_os(SERVICE).is_some()
}

/// Serves until the process that started this one is gone.
pub fn serve() {
    thread::spawn(|| {
        // Nothing is ever written there: it ends when the other end does.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    });
}

async fn answer(request: hyper::Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let Ok(question) = serde_json::from_slice::<Question<'_>>(&body) else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let request = Request {
        model: question.model.into_owned(),
        content: Content::Completion {
            system: question.system.into_owned(),
            input: question.input.into_owned(),
        },
        options: question.options.into_owned(),
        wants_stream: question.wants_stream,
    };
    let verdict = crate::on_request(&JobContext::default(), &request);
    let answer = Answer { verdict: verdict.as_str().to_owned() };
    let body = Bytes::from(serde_json::to_vec(&answer).unwrap());
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(Full::new(body)).unwrap())
}
