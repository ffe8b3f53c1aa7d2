//! Processes that share one task, such as training a model: sums over all of them, and an end of all when one ends.
//!
//! Every rank is connected to rank 0, which adds up in the order of the ranks, so that a sum is the same bits on every rank and from
//! run to run. It costs rank 0 twice the gradient times the number of ranks in traffic: enough for some machines with processors,
//! which compute long between two sums. No library of a cluster is needed; its launcher only starts the processes. Gradients that lie
//! on cards are summed there by NCCL, in a build that has it ([`Peers::join_cards`]).

mod gradients;
mod link;
mod meeting;

use std::{
    net::TcpStream,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use candle_core::{DType, Device, Tensor};
use strata_nn::collective::Cards;

use crate::{Error, Ranks, Result};
use link::{Kind, Link, OnEnd, send};
use meeting::Place;

/// How long a process may go on computing after another one ended, before it is ended by [`Peers::connect`]'s `give_up`.
const GRACE: Duration = Duration::from_secs(15);

/// The processes of a run, seen from one of them.
#[derive(Debug)]
pub struct Peers {
    ranks: Ranks,
    links: Vec<Link>,
    ended: Arc<OnceLock<String>>,
    cards: Option<Cards>,
}

impl Peers {
    /// A process alone.
    pub fn alone() -> Self {
        Self { ranks: Ranks::default(), links: Vec::new(), ended: Arc::default(), cards: None }
    }

    /// Meets the other ranks, at the address that the launcher's environment names. All must have the same `identity`, for example
    /// their settings. `give_up` is called with the reason if this process still computes a while after another one ended; it should
    /// end it.
    ///
    /// # Errors
    /// [`Error::Peers`] if they do not meet.
    pub fn connect(ranks: Ranks, identity: &str, give_up: impl Fn(&str) + Send + Sync + 'static) -> Result<Self> {
        if ranks.count == 1 {
            return Ok(Self::alone());
        }
        let place = Place::from_env()?;
        let streams = match ranks.rank {
            0 => meeting::host(&place, ranks, identity)?,
            _ => vec![meeting::visit(&place, ranks, identity)?],
        };
        Self::of(ranks, streams, Arc::new(give_up))
    }

    fn of(ranks: Ranks, streams: Vec<TcpStream>, give_up: OnEnd) -> Result<Self> {
        let ended: Arc<OnceLock<String>> = Arc::default();
        let all: Arc<Mutex<Vec<Arc<Mutex<TcpStream>>>>> = Arc::default();
        let on_end: OnEnd = {
            let (ended, all) = (Arc::clone(&ended), Arc::clone(&all));
            Arc::new(move |reason: &str| {
                if ended.set(reason.to_string()).is_err() {
                    return;
                }
                // Rank 0 passes it on; the others have nobody to tell.
                for writer in all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let _ = send(writer, Kind::Abort, reason.as_bytes());
                }
                let (give_up, reason) = (Arc::clone(&give_up), reason.to_string());
                thread::spawn(move || {
                    thread::sleep(GRACE);
                    give_up(&reason);
                });
            })
        };
        let first = usize::from(ranks.rank == 0);
        let link = |(i, stream): (usize, TcpStream)| {
            let name = format!("rank {} of {}", i + first, ranks.count);
            Link::new(stream, name, Arc::clone(&on_end)).map_err(|e| Error::Peers(e.to_string()))
        };
        let links = streams.into_iter().enumerate().map(link).collect::<Result<Vec<_>>>()?;
        *all.lock().unwrap_or_else(PoisonError::into_inner) = links.iter().map(Link::writer).collect();
        Ok(Self { ranks, links, ended, cards: None })
    }

    /// Which of how many this process is.
    pub fn ranks(&self) -> Ranks {
        self.ranks
    }

    /// Whether this process writes files and shows progress.
    pub fn is_first(&self) -> bool {
        self.ranks.rank == 0
    }

    /// # Errors
    /// [`Error::Peers`] with its name if a rank has ended.
    pub fn check(&self) -> Result<()> {
        self.ended.get().map_or(Ok(()), |reason| Err(Error::Peers(reason.clone())))
    }

    /// Replaces `values` by their sums over all ranks, which must have as many.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended.
    pub fn sum(&self, values: &mut [f32]) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        if !self.is_first() {
            self.links[0].send(&to_bytes(values));
            let sums = self.receive(&self.links[0])?;
            return fold(values, &sums, |_, sum| sum);
        }
        for link in &self.links {
            let theirs = self.receive(link)?;
            fold(values, &theirs, |a, b| a + b)?;
        }
        let sums = to_bytes(values);
        self.links.iter().for_each(|link| link.send(&sums));
        Ok(())
    }

    /// Rank 0's `data`, for all.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended.
    pub fn broadcast(&self, data: Vec<u8>) -> Result<Vec<u8>> {
        if self.is_first() {
            self.links.iter().for_each(|link| link.send(&data));
            return Ok(data);
        }
        self.receive(&self.links[0])
    }

    /// Every rank's `data` in the order of the ranks, at rank 0; nothing at the others.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended.
    pub fn gather(&self, data: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if !self.is_first() {
            self.links[0].send(&data);
            return Ok(Vec::new());
        }
        let theirs = self.links.iter().map(|link| self.receive(link));
        std::iter::once(Ok(data)).chain(theirs).collect()
    }

    /// Rank 0's values of tensors of the same names and shapes, float32, float64 or int64.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended or has other tensors.
    pub fn broadcast_tensors(&self, tensors: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        if self.links.is_empty() {
            return Ok(tensors);
        }
        let mut answer = Vec::with_capacity(tensors.len());
        for (name, t) in tensors {
            // Every value of these kinds that occurs is a float64 without loss.
            let values: Vec<f64> = t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            let bytes = self.broadcast(values.iter().flat_map(|v| v.to_le_bytes()).collect())?;
            let values: Vec<f64> = bytes.as_chunks().0.iter().map(|v| f64::from_le_bytes(*v)).collect();
            if values.len() != t.elem_count() {
                return Err(Error::Peers(format!("`{name}`: rank 0 has {} values, this rank {}", values.len(), t.elem_count())));
            }
            let t = Tensor::from_vec(values, t.shape(), &Device::Cpu)?.to_dtype(t.dtype())?.to_device(t.device())?;
            answer.push((name, t));
        }
        Ok(answer)
    }

    /// Ends every rank, because this one cannot go on.
    pub fn abort(&self, reason: &str) {
        let reason = format!("rank {} of {} gave up: {reason}", self.ranks.rank, self.ranks.count);
        self.links.iter().for_each(|link| link.abort(&reason));
        self.leave();
    }

    /// The work is done: the others may end now or later.
    pub fn leave(&self) {
        self.links.iter().filter(|link| !link.has_left()).for_each(Link::leave);
    }

    fn receive(&self, link: &Link) -> Result<Vec<u8>> {
        // The first reason is the true one: connections break one after the other.
        link.receive().map_err(|reason| Error::Peers(self.ended.get().cloned().unwrap_or(reason)))
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn fold(values: &mut [f32], bytes: &[u8], f: impl Fn(f32, f32) -> f32) -> Result<()> {
    let theirs = bytes.as_chunks().0;
    if theirs.len() != values.len() {
        return Err(Error::Peers(format!("expected {} numbers of another rank, got {}", values.len(), theirs.len())));
    }
    values.iter_mut().zip(theirs).for_each(|(v, b)| *v = f(*v, f32::from_le_bytes(*b)));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use candle_core::Var;

    use super::*;

    /// Rank 0 of two and rank 1, connected.
    fn pair() -> [Peers; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (zero, _) = listener.accept().unwrap();
        [(0, zero), (1, one)].map(|(rank, stream)| {
            let ranks = Ranks { rank, count: 2, local: rank };
            Peers::of(ranks, vec![stream], Arc::new(|_| ())).unwrap()
        })
    }

    fn on_both<T: Send>(peers: &mut [Peers; 2], f: impl Fn(&mut Peers) -> T + Sync) -> [T; 2] {
        let [zero, one] = peers;
        thread::scope(|scope| {
            let f = &f;
            let other = scope.spawn(move || f(one));
            let first = f(zero);
            [first, other.join().unwrap()]
        })
    }

    #[test]
    fn sums_and_broadcasts() {
        let mut peers = pair();
        let sums = on_both(&mut peers, |p| {
            let mut values = [1.0 + p.ranks().rank as f32, 0.25];
            p.sum(&mut values).unwrap();
            values
        });
        assert_eq!(sums, [[3.0, 0.5]; 2]);
        let told = on_both(&mut peers, |p| p.broadcast(vec![p.ranks().rank as u8; 3]).unwrap());
        assert_eq!(told, [[0; 3], [0; 3]]);
        let gathered = on_both(&mut peers, |p| p.gather(vec![p.ranks().rank as u8; 2]).unwrap());
        assert_eq!(gathered, [vec![vec![0; 2], vec![1; 2]], vec![]]);
        let tensors = on_both(&mut peers, |p| {
            let t = Tensor::new(&[7i64 + p.ranks().rank as i64], &Device::Cpu).unwrap();
            p.broadcast_tensors(vec![("n".into(), t)]).unwrap()[0].1.to_vec1::<i64>().unwrap()
        });
        assert_eq!(tensors, [[7], [7]]);
    }

    #[test]
    fn a_gradient_of_one_rank_is_everybodys() {
        let mut peers = pair();
        let got = on_both(&mut peers, |p| {
            let (shared, own) = (Var::new(&[2f32, 3.0], &Device::Cpu).unwrap(), Var::new(&[1f32], &Device::Cpu).unwrap());
            let unused = Var::new(&[1f32], &Device::Cpu).unwrap();
            let mut loss = shared.as_tensor().sqr().unwrap().sum_all().unwrap();
            if p.ranks().rank == 1 {
                loss = (loss + own.as_tensor().sum_all().unwrap()).unwrap();
            }
            let mut grads = loss.backward().unwrap();
            let mut others = [0.5];
            p.join_cards(&Device::Cpu).unwrap();
            assert!(!p.has_cards());
            p.sum_gradients(&mut grads, &[shared.clone(), own.clone(), unused.clone()], &mut others).unwrap();
            assert!(grads.get(&unused).is_none());
            let values = |v: &Var| grads.get(v).unwrap().to_vec1::<f32>().unwrap();
            (values(&shared), values(&own), others)
        });
        assert_eq!(got[0], (vec![8.0, 12.0], vec![1.0], [1.0]));
        assert_eq!(got[0], got[1]);
    }

    #[test]
    fn the_end_of_a_rank_is_named_and_leave_is_no_end() {
        let [zero, one] = pair();
        one.abort("its disk is full");
        let message = zero.sum(&mut [0.0]).unwrap_err().to_string();
        assert!(message.contains("rank 1 of 2") && message.contains("disk is full"), "{message}");
        let [zero, one] = pair();
        one.links[0].writer().lock().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
        let message = zero.sum(&mut [0.0]).unwrap_err().to_string();
        assert!(message.contains("rank 1 of 2 ended"), "{message}");
        let [zero, one] = pair();
        one.leave();
        drop(one);
        assert!(zero.check().is_ok());
    }
}
